"""FedKD on MNIST: four clients, a teacher of 800-800 each, a shared student of 100-100.

Wu et al. 2022 have no image task; expected of their text tasks: FedKD as good as FedAvg of the
large model for a tenth of its bytes. Here the student alone has a fourteenth of the weights,
and T = 0.95 to 0.98 takes its updates to three quarters of that.

    python -m launch.run --config=configs/fedkd/mnist.py --workdir=runs/fedkd-mnist

Time: results/mnist.jsonl. Variants: 'skewed' shares labels out by Dirichlet(0.3);
'quick' is two rounds with nets of 64 and 32.
"""

from ml_collections import config_dict

from configs.fedkd import setting
from configs.variants import split

STAGES = ('large', 'local', 'fedavg', 'fedkd', 'whole', 'alone')


def get_config(variant: str = ''):
  """variant: '' or 'skewed', and 'quick', joined by a comma."""
  chosen = split(variant, ('skewed', 'quick'))
  skewed, quick = 'skewed' in chosen, 'quick' in chosen
  c = config_dict.ConfigDict()
  c.title = 'FedKD on MNIST' + ', labels skewed' * skewed
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='mnist', validation=5_000)
  teacher = dict(name='mlp', widths=(64, 64) if quick else (800, 800))
  student = dict(name='mlp', widths=(32, 32) if quick else (100, 100))
  c.model = teacher
  federation = setting.federation(
    rounds=2 if quick else 20, batch=100, epochs=0.1 if quick else 1,
    alpha=0.3 if skewed else 0.0,
  )  # fmt: skip
  parts = setting.methods(
    federation, teacher, student, (dict(student='fc2', teacher='fc2'),),
    dict(name='adam', learning_rate=1e-3),
  )  # fmt: skip
  c.stages = ('fedavg', 'fedkd') if quick else STAGES
  for name in c.stages:
    c[name] = parts[name]
  c.paper = {} if quick else setting.ablations(c.stages)
  c.tables = setting.tables()
  c.figures = setting.figures('fc1/kernel', 'fc2/kernel')
  return c


def sweep():
  """One line a seed, for equal shares and skewed labels."""
  for variant in '', 'skewed':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
