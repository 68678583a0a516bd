"""Do differentiable searches find the best network? On digits, where all 64 can be trained.

Liu et al., DARTS, ICLR 2019; Cai et al., ProxylessNAS, and Wu et al., FBNet, 2019; Tan et al.,
MnasNet (REINFORCE, PPO), 2019. The papers' spaces cannot be listed; here are three layers of four
operations, each network trained twice. Cost is instructions of a Cortex-M4, a sum of measured ones
of the operations, within 1 % of whole networks' (predicting.jsonl of configs/bench). Expected: a
search's network is as good as the best, to the noise of training; with a growing weight of expected
cost ProxylessNAS chooses ever cheaper ones, and so does FBNet with a growing power of its log (0.6
in the paper); REINFORCE and PPO find the best of MnasNet's rewards.

    python -m launch.run --config=configs/nas/digits.py --workdir=runs/nas-digits

Variants, joined by a comma: 'cell', DARTS' own kind of space, a cell of three nodes that keep two
of the edges that lead to them: 96 networks of 'skip' and 'conv3'; 'energy', the estimated energy as
the cost, for the two searches that weigh one; 'quick': 4 networks. Time: results/digits.jsonl.
"""

from ml_collections import config_dict

from configs import energy
from configs.variants import split

OPERATIONS = ('skip', 'conv1', 'conv3', 'separable3')
STEPS = 300


def get_config(variant: str = ''):
  """variant: of 'cell', 'energy' and 'quick', joined by a comma."""
  chosen = split(variant, ('cell', 'energy', 'quick'))
  quick = 'quick' in chosen
  c = config_dict.ConfigDict()
  c.title = 'Differentiable search on digits, beside all 64 networks'
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='digits')
  c.model = dict(
    name='choice', layers=2 if quick else 3, width=4 if quick else 8,
    operations=('skip', 'conv1') if quick else OPERATIONS,
  )  # fmt: skip
  c.stages = ('darts',)
  steps = 20 if quick else STEPS
  c.darts = dict(
    methods=('darts', 'reinforce') if quick else (
      'darts', 'darts2', 'proxyless', 'fbnet', 'reinforce', 'ppo'),
    steps=steps, batch=64, every=10 if quick else 50, repeats=1 if quick else 2, second=3e-3,
    optimizer=dict(name='adam', learning_rate=3e-3, cosine=steps),
    pushes=() if quick else (0.3, 1.0, 3.0, 10.0), cost='instructions',
    powers=() if quick else (0.6, 3.0, 10.0, 100.0), targets=() if quick else (0.3, 0.6),
  )  # fmt: skip
  if 'cell' in chosen:
    c.title = 'Differentiable search of a cell on digits, beside all of its networks'
    c.model = dict(c.model, kept=1 if quick else 2, operations=('skip', 'conv3'))
    c.darts = dict(c.darts, methods=c.darts.methods[:1 if quick else 4],
                   pushes=(), powers=(), targets=(), cost='macs')  # fmt: skip
  if 'energy' in chosen:
    c.title = 'Differentiable search on digits by estimated energy'
    c.darts.update(cost='energy', methods=('fbnet', 'proxyless'), targets=(),
                   picojoules=energy.ON_CHIP)  # fmt: skip
  c.tables = dict(
    a_methods=dict(
      title='What each search chose', kind='method', rows=('method', 'loss', 'push', 'target'),
      values=('test_accuracy', 'best_accuracy', 'behind', 'noise', 'within_noise', 'rank', 'cost',
              'trained'),
      names=dict(loss=dict(add='+ push x cost', power='x log(cost)^push'), push='push {}',
                 target='target {}', best_accuracy='of the best', behind='behind the best',
                 within_noise='within the noise', cost='cost (dearest 1)',
                 trained='networks trained'),
      note='Truth: mean test accuracy of two trainings of the chosen network; rank of all, with a '
           'target of rewards, as are how far behind and the noise: what the two trainings differ '
           'by, the median over all networks. Within the noise: the share of seeds whose network '
           'is no further behind the best. The cost in a loss is of the dearest, in a log as '
           'counted; a search with a push or a target gives accuracy for cost.',
    ),
  )  # fmt: skip
  c.figures = dict(
    listed=dict(title='All networks', kind='listed', x='cost', y='test_accuracy',
                x_label=f'{c.darts.cost}, of the dearest', spread='none'),
  )  # fmt: skip
  return c


def sweep():
  """Layers, a cell and energy; one line a seed."""
  for variant in '', 'cell', 'energy':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
