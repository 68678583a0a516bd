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
prunes and all the other controls at 21.1 %, three seeds; 'random' is figure 1's dashed lines, ten
random masks a level (at six levels), one seed; 'quick' is one level of 1,000 steps. Time of '15k':
see results/lenet-15k.jsonl.
"""

from ml_collections import config_dict

from configs.lottery import claims, figures
from configs.variants import split

SEEDS = (0, 1, 2, 3, 4)
VARIANTS = ('15k', 'continued', 'controls', 'one_shot', 'quick', 'random')
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
    figure4=figures.figure4(one_shot=run_of(variants | {'one_shot'})),
    figure9=figures.figure9(continued=run_of(variants | {'continued'})),
  )
  c.paper = claims.resetting()
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
    c.paper = claims.controls()
  elif 'continued' in variants:
    c.lottery.controls = {}
  elif 'random' in variants:
    c.seeds = SEEDS[:1]
    c.lottery.update(rounds=LEVELS[-1], curve_levels=())
    c.lottery.controls = dict(random=dict(draws=10, levels=LEVELS))
    c.figures, c.paper = dict(figure1=figures.figure1()), claims.random()
  for name in variants & set(PROCEDURES):
    del c.figures['figure4'], c.figures['figure9']  # drawn by the run that resets
    c.paper = getattr(claims, name)(dict(run=run_of(variants - {name})))
  if 'quick' in variants:
    c.seeds = SEEDS[:2]
    c.lottery.update(rounds=1, steps=1_000, curve_levels=(0, 1))
    c.lottery.controls = dict(reinit=dict(draws=1))
  return c


def run_of(variants: set[str]) -> str:
  """The name that the run of these variants has in reports."""
  return ':'.join(filter(None, ('lottery/lenet', ','.join(sorted(variants)))))


def sweep():
  """Figures 1, 3, 4 and 9, and the controls: one line a seed."""
  for variant in ('', 'one_shot', 'continued', 'controls'):
    for seed in SEEDS:
      yield {'variant': variant, 'seeds': (seed,)}
  yield {'variant': 'random'}
