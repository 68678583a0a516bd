"""LeNet-300-100 on MNIST: Frankle & Carbin, ICLR 2019, figures 1, 3, 4 and 9, appendices E and F.

Expected (section 2 of the paper, five seeds, against the dense net): early stop 38 % sooner at
21.1 % of the weights; best test accuracy at 13.5 %, more than 0.3 points above dense; level with
dense at 3.6 %. Random reinitialization at 21.1 %: lowest validation loss 2.51 times later than
the ticket, 0.5 points worse, and worse with every further prune.

    python -m launch.run --config=configs/lottery/lenet.py --workdir=runs/lenet --data_dir=DATA
    python -m launch.run --config=configs/lottery/lenet.py:15k --workdir=runs/lenet-15k ...

Variants, which combine ('15k,one_shot'): '' is the paper's 50,000 steps with three
reinitializations of every ticket; '15k' stops at 15,000, after the early stop of almost all, and
reinitializes at six levels; 'one_shot' drops all weights at once from the trained dense net;
'continued' trains on after each prune without a reset (the paper's strategy 2); 'controls' is seven
prunes and all the other controls at 21.1 %, three seeds; 'quick' is one level of 1,000 steps. Time
of '15k': see results/lenet-15k.jsonl.
"""

import functools

from ml_collections import config_dict

from configs.lottery import figures
from configs.variants import split

SEEDS = (0, 1, 2, 3, 4)
VARIANTS = ('15k', 'continued', 'controls', 'one_shot', 'quick')
LEVELS = (3, 5, 7, 9, 12, 15)  # 51.3, 32.9, 21.1, 13.5, 7.0 and 3.6 % of the weights
PROCEDURES = ('continued', 'one_shot')  # instead of resetting


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  c = config_dict.ConfigDict()
  c.title = 'Lottery tickets: LeNet-300-100 on MNIST'
  c.seeds = SEEDS
  c.data = dict(name='mnist', validation=5_000)  # 55K / 5K / 10K
  c.model = dict(name='lenet', widths=(300, 100))  # Gaussian Glorot, biases 0
  c.stages = ('lottery',)
  c.lottery = dict(
    rounds=20,  # 100 %, 80.0, 64.1, 51.3, 41.1, 32.9, 26.3, 21.1, 16.9, 13.5, 10.8 ... 1.2
    rates=(('out/kernel', 0.1), ('kernel', 0.2)),  # the output layer at half the rate
    procedure=next((p for p in PROCEDURES if p in variants), 'resetting'),
    steps=50_000,
    batch=60,
    every=100,
    optimizer=dict(name='adam', learning_rate=1.2e-3),
    controls=dict(reinit=dict(draws=3)),
    curve_levels=(0, 3, 7, 12, 15, 18),  # 100, 51.3, 21.1, 7.0, 3.6 and 1.9 %: figure 3
  )
  c.figures = dict(
    figure1=figures.figure1(),
    figure3=figures.figure3(y_range=(0.94, 0.99)),
    figure4=figures.figure4(one_shot=f'lottery/lenet:{",".join(sorted({*variants, "one_shot"}))}'),
  )
  c.paper = claims(TICKETS)
  if '15k' in variants:
    c.lottery.update(rounds=18, steps=15_000)
    c.lottery.controls = dict(reinit=dict(draws=3, levels=LEVELS))
  if 'controls' in variants:
    c.seeds = SEEDS[:3]  # as in the paper's appendices
    at = dict(levels=(7,))  # 21.1 %
    c.lottery.update(rounds=7, curve_levels=(), histogram_levels=(0, 3, 7))
    c.lottery.controls = dict(
      reinit=at, reinit_signs=dict(at, name='reinit', signs=True), random=at, shuffled=at, early=at,
      constant=at, frozen=at, noise=dict(at, sigmas=(0.5, 1.0, 2.0, 3.0)),
      reordered=dict(levels=(0, 7), points=30),
    )  # fmt: skip
    c.figures = dict(
      connectivity=figures.connectivity(),
      histograms=figures.histograms(('fc1/kernel', 'fc2/kernel', 'out/kernel')),
    )
    c.paper = claims(CONTROLS)
  elif 'continued' in variants:
    c.lottery.controls = {}
  if 'quick' in variants:
    c.seeds = SEEDS[:2]
    c.lottery.update(rounds=1, steps=1_000, curve_levels=(0, 1))
    c.lottery.controls = dict(reinit=dict(draws=1))
  return c


DENSE, TICKET = dict(net='ticket', kept=1.0), dict(net='ticket')


def measure(net, kept, key, how, against=None, kind='level'):
  """A measure of `reduction.report.claims`."""
  row = dict(kind=kind, net=net, kept=kept, key=key, how=how)
  return row if against is None else dict(row, against=against)


ticket, reinit = functools.partial(measure, 'ticket'), functools.partial(measure, 'reinit')
STEP, BETTER = 'early_stop_step', ('early_stop_test_accuracy', 'difference')
# What the paper says, beside which the rows are put; accuracies are those at early stop
TICKETS = dict(
  R1=('accuracy of the dense net', '98.1 to 98.3 % (figure)',
      ticket(1.0, 'early_stop_test_accuracy', 'value')),
  R2=('early stop at 21.1 %, against dense', '38 % sooner', ticket(0.211, STEP, 'relative', DENSE)),
  R3=('accuracy at 13.5 %, against dense', '+0.3 pp', ticket(0.135, *BETTER, DENSE)),
  R4a=('accuracy at 3.6 %, against dense', 'equal', ticket(0.036, *BETTER, DENSE)),
  R4b=('accuracy at 2.9 %, against dense', 'begins to fall', ticket(0.029, *BETTER, DENSE)),
  R5a=('early stop of the reinit at 21.1 %, against its ticket', '2.51 times later',
       reinit(0.211, STEP, 'ratio', TICKET)),
  R5b=('accuracy of the reinit at 21.1 %, against its ticket', '-0.5 pp',
       reinit(0.211, *BETTER, TICKET)),
  R5c=('accuracy of the reinit at 21.1 %, against dense', 'begins to fall',
       reinit(0.211, *BETTER, DENSE)),
  R5d=('accuracy of the reinit at 3.6 %, against dense', 'far below (figure)',
       reinit(0.036, *BETTER, DENSE)),
)  # fmt: skip
CONTROLS = dict(
  R7a=('accuracy with noise of 0.5 sigma at 21.1 %, against its ticket', 'barely hurts',
       measure('noise 0.5', 0.211, *BETTER, TICKET)),
  R7b=('accuracy with noise of 3 sigma at 21.1 %, against its reinit', 'still better',
       measure('noise 3', 0.211, *BETTER, dict(net='reinit'))),
  R7c=('accuracy of the random mask at 21.1 %, against the reinit', 'worse (appendix E)',
       measure('random', 0.211, *BETTER, dict(net='reinit'))),
  R7d=('accuracy of the shuffled weights at 21.1 %, against the reinit', 'little better (F.3)',
       measure('shuffled', 0.211, *BETTER, dict(net='reinit'))),
  R7e=('accuracy when pruned at step 0 to 21.1 %, against the reinit', 'worse (F.4)',
       measure('early', 0.211, *BETTER, dict(net='reinit'))),
  R7f=('early stop with noise of 3 sigma at 21.1 %, against its reinit', 'sooner',
       measure('noise 3', 0.211, STEP, 'ratio', dict(net='reinit'))),
  R7g=('accuracy of constants with the signs at 21.1 %, against the reinit',
       'as the ticket (Zhou et al. 2019)', measure('constant', 0.211, *BETTER, dict(net='reinit'))),
  R7h=('accuracy of a reinit with the signs at 21.1 %, against one without',
       'better (Zhou et al. 2019)', measure('reinit_signs', 0.211, *BETTER, dict(net='reinit'))),
  R8a=('instability of the dense net (Frankle et al. 2020)', 'stable: below 2 pp',
       measure('reordered', 1.0, 'instability', 'value', kind='instability')),
  R8b=('instability of the ticket at 21.1 %', 'stable: below 2 pp',
       measure('reordered', 0.211, 'instability', 'value', kind='instability')),
)  # fmt: skip


def claims(lines):
  """Lines of TICKETS or CONTROLS as the config's `paper`."""
  return {
    name: dict(claim=claim, paper=says, measure=measured)
    for name, (claim, says, measured) in lines.items()
  }


def sweep():
  """Figures 1, 3, 4 and 9, and the controls: one line a seed."""
  for variant in ('', 'one_shot', 'continued', 'controls'):
    for seed in SEEDS:
      yield {'variant': variant, 'seeds': (seed,)}
