"""Zhou et al., Deconstructing Lottery Tickets, NeurIPS 2019, on LeNet-300-100 and MNIST.

Which weights to keep, what to set them to, and nets that are masked but never trained. Expected
(figures): 'large_final' and 'magnitude_increase' find the best masks; constants of the right sign
train about as well as rewound weights, and without the signs both are lost; pruned weights frozen
at their first values do worse than at 0. Untrained, under a 'large_final_same_sign' mask, about
80 % of the digits are right; with a learned mask about 95 %, with rescaled weights 98 %.

    python -m launch.run --config=configs/lottery/zhou.py:bernoulli --workdir=runs/zhou-bernoulli
    python -m launch.sweep --config=configs/lottery/zhou.py --workdir=runs/zhou --run

Variants, one at a time: a criterion of `prune.CRITERIA` (the default 'large_final' trains the
controls too), 'bernoulli' (a learned mask), 'rescaled' (the same with dynamic weight rescaling) or
'edge_popup' (Ramanujan et al., CVPR 2020, half of the weights kept); 'quick' with any of them. Five
seeds, 15,000 steps a training.
"""

from ml_collections import config_dict

from configs.lottery import figures
from reduction.prune import CRITERIA

SEEDS = (0, 1, 2, 3, 4)
LEARNED = ('bernoulli', 'rescaled', 'edge_popup')


def get_config(variant: str = ''):
  """variant: a criterion or one of LEARNED, and 'quick', joined by a comma."""
  variants = set(variant.split(',')) - {''}
  chosen = variants - {'quick'} or {'large_final'}
  known = (*CRITERIA, *LEARNED)
  if len(chosen) > 1 or not chosen <= set(known):
    raise ValueError(f'variant {variant!r} is not one of {", ".join(known)}, with or without quick')
  (name,) = chosen
  c = config_dict.ConfigDict()
  c.title = f'Deconstructing lottery tickets on MNIST: {name.replace("_", " ")}'
  c.seeds = SEEDS
  c.data = dict(name='mnist', validation=5_000)
  c.model = dict(name='lenet', widths=(300, 100))
  if name in LEARNED:
    c.stages = ('supermask',)
    c.supermask = dict(
      method='edge_popup' if name == 'edge_popup' else 'bernoulli',
      weights='signed_constant',
      rescale=name == 'rescaled',
      steps=15_000,
      batch=60,
      every=500,
      optimizer=dict(name='adam', learning_rate=0.01),
    )
    c.figures = dict(learning=dict(
      title='Validation accuracy as the mask is learned', kind='curve', x='step',
      y='validation_accuracy', spread='band',
    ))  # fmt: skip
  else:
    c.stages = ('lottery',)
    c.lottery = dict(
      rounds=12,
      rates=(('out/kernel', 0.1), ('kernel', 0.2)),
      criterion=name,
      steps=15_000,
      batch=60,
      every=100,
      optimizer=dict(name='adam', learning_rate=1.2e-3),
      controls=dict(
        reinit={}, reinit_signs=dict(name='reinit', signs=True), shuffled={}, constant={}, frozen={}
      ) if name == 'large_final' else {},
    )  # fmt: skip
    c.figures = dict(actions=figures.deconstructed())
  if 'quick' in variants:
    c.seeds = SEEDS[:1]
    part = c[c.stages[0]]
    part.update(steps=200, every=100)
    if 'rounds' in part:
      part.rounds = 1
  return c


def sweep():
  """Every criterion and every learned mask, all seeds in one line."""
  for name in (*CRITERIA, *LEARNED):
    yield {'variant': name}
