"""Search on digits, whole: a supernet of 400 networks, how it ranks them, the best in a budget.

Lin et al., NeurIPS 2020, stage 2, and Cai et al., Once-for-All, ICLR 2020, on scikit-learn's 8 x 8
digits. Expected of the papers: the order of accuracies in the supernet is that of networks trained
by themselves (here: Kendall's tau over 24 networks, with its interval), and evolution finds no
worse a network than random search with as many evaluations.

    python -m launch.run --config=configs/mcunet/digits.py --workdir=runs/search-digits

Variants: 'shrinking' trains in four phases, the largest first (progressive shrinking, with learned
kernel transforms); 'deploy' searches for 12 KB of SRAM and 16 KB of Flash, then trains, prunes,
distills and trains on in integers, each of which becomes int8 C; 'fast' allows 250,000 instructions
(of 135,579 to 633,724), 'reward' takes MnasNet's soft reward with that target; 'frugal' allows
0.03 microjoules, estimated; 'quick'. Joined by a comma. Differs from Once-for-All: one phase of
depths and one of expansions where it has two of each, taught by the largest of the same supernet
instead of a finished one, at one rate in all phases. Time: results/digits.jsonl.
"""

from configs import energy
from configs.mcunet import setting
from configs.variants import split

STEPS = 2_000
INSTRUCTIONS = 250_000
MICROJOULES = 0.03
LIMITS = 'instructions', 'reward', 'energy'
VARIANTS = 'shrinking', 'deploy', 'fast', 'reward', 'frugal', 'quick'
WRITTEN = dict(train='trained', prune='pruned', distill='distilled', qat='trained in integers')


def get_config(variant: str = ''):
  """variant: of VARIANTS, joined by a comma."""
  chosen = split(variant, VARIANTS)
  quick = 'quick' in chosen
  steps, every = (20, 10) if quick else (STEPS, 200)
  c = setting.begin('Search on digits', dict(name='digits'), setting.DIGITS, steps, every)
  limits = dict(sram=12 * 1024, flash=16 * 1024)
  if 'shrinking' in chosen:
    c.supernet.update(phases=('largest', 'kernel', 'depth', 'expansion'), transform=True,
                      steps=steps // 2, every=every // 2)  # fmt: skip
  c.specialize = dict(space=setting.DIGITS, **limits, population=20, generations=5,
                      picojoules=energy.ON_CHIP)  # fmt: skip
  if 'fast' in chosen:
    c.specialize.instructions = INSTRUCTIONS
  if 'reward' in chosen:
    c.specialize.reward = dict(cost='instructions', target=float(INSTRUCTIONS), how='soft')
  if 'frugal' in chosen:
    c.specialize.energy = MICROJOULES
  train = dict(steps=steps, batch=64, every=every, optimizer=setting.adam(3e-3, steps))
  if 'deploy' in chosen:
    c.specialize.table = 'm7'  # the board's core
    c.stages = ('supernet', 'specialize', 'train', 'prune', 'distill', 'qat')
    c.train = dict(train, stage='tune')
    c.prune = dict(
      train, stage='lottery', rounds=1 if quick else 3, rates=(('(expand|project)/kernel', 0.2),)
    )
    c.distill = dict(train, teachers=('train',), temperature=4.0, hard=0.1)
    c.qat = dict(train, stage='qat_mcu', steps=steps // 4, every=every // 2, freeze=steps // 8,
                 optimizer=setting.adam(1e-3, steps // 4))  # fmt: skip
    for of in WRITTEN:
      c[f'{of}_in_c'] = dict(stage='microcontroller', board='stm32f746', of=of)
      c.stages = (*c.stages, f'{of}_in_c')
  elif 'frugal' in chosen:
    c.stages = ('supernet', 'specialize')
  else:
    c.stages = ('supernet', 'rank', 'specialize')
    c.rank = dict(train, space=setting.DIGITS, networks=24)
  if quick:
    c.seeds = (0,)
    c.supernet.random = 0
    c.supernet.space = dict(setting.DIGITS, kernels=(1, 3), stages=((16, 4, (1, 2)),))
    small = c.supernet.space
    c.specialize.update(space=small, population=4, generations=1, beside=False)
    c.specialize = {k: v for k, v in c.specialize.items() if k not in LIMITS}
    if 'rank' in c.stages:
      c.rank.update(space=small, networks=3)
  written = {f'{of}_in_c': name for of, name in WRITTEN.items()}
  c.tables = dict(
    a_rank=setting.agreement(), b_found=setting.found(), c_board=setting.trained(**written),
    e_versus=setting.compared(),
  )  # fmt: skip
  c.figures = dict(
    evolution=dict(title='Evolution', kind='generation', x='step', y='best',
                   x_label='generation', y_label='accuracy on validation images'),
  )  # fmt: skip
  return c


def sweep():
  """Trained at once, by progressive shrinking, under instructions, deployed; one line a seed."""
  for variant in '', 'shrinking', 'fast', 'reward', 'frugal', 'deploy':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
