"""LeNet-300-100 on MNIST: Frankle & Carbin, ICLR 2019, figures 1, 3 and 4.

Expected (section 2 of the paper, five seeds, against the dense net): early stop 38 % sooner at
21.1 % of the weights; best test accuracy at 13.5 %, more than 0.3 points above dense; level with
dense at 3.6 %. Random reinitialization at 21.1 %: lowest validation loss 2.51 times later than
the ticket, 0.5 points worse, and worse with every further prune.

    python -m launch.run --config=configs/lottery/lenet.py --workdir=runs/lenet --data_dir=DATA
    python -m launch.run --config=configs/lottery/lenet.py:15k --workdir=runs/lenet-15k ...

Variants: '' is the paper's 50,000 steps with three reinitializations of every ticket; '15k' stops
at 15,000, well after every early stop, with one reinitialization at six levels; 'quick' is two
levels of 1,000 steps. Time of '15k': see results/lenet-15k.jsonl.
"""

from ml_collections import config_dict

SEEDS = (0, 1, 2, 3, 4)


def get_config(variant: str = ''):
  """variant: '', '15k' or 'quick'."""
  if variant not in ('', '15k', 'quick'):
    raise ValueError(f"no variant {variant!r}; there are '', '15k' and 'quick'")
  c = config_dict.ConfigDict()
  c.title = 'Lottery tickets: LeNet-300-100 on MNIST'
  c.seeds = SEEDS
  c.data = dict(name='mnist', validation=5_000)  # 55K / 5K / 10K
  c.model = dict(name='lenet', widths=(300, 100))  # Gaussian Glorot, biases 0
  c.stages = ('lottery',)
  c.lottery = dict(
    rounds=20,  # 100 %, 80.0, 64.1, 51.3, 41.1, 32.9, 26.3, 21.1, 16.9, 13.5, 10.8 ... 1.2
    rates=(('out/kernel', 0.1), ('kernel', 0.2)),  # the output layer at half the rate
    procedure='iterative',
    steps=50_000,
    batch=60,
    every=100,
    optimizer=dict(name='adam', learning_rate=1.2e-3),
    reinits=3,
    reinit_levels=None,
    curve_levels=(0, 3, 7, 12, 15, 18),  # 100, 51.3, 21.1, 7.0, 3.6 and 1.9 %: figure 3
  )
  if variant == '15k':
    c.lottery.update(rounds=18, steps=15_000, reinits=1)
    c.lottery.reinit_levels = (3, 5, 7, 9, 12, 15)  # 51.3, 32.9, 21.1, 13.5, 7.0 and 3.6 %
  if variant == 'quick':
    c.seeds = SEEDS[:2]
    c.lottery.update(rounds=1, steps=1_000, reinits=1, curve_levels=(0, 1))
  return c


def sweep():
  """Figures 1, 3 and 4: both procedures, one line a seed."""
  for procedure in ('iterative', 'one_shot'):
    for seed in SEEDS:
      yield {'lottery.procedure': procedure, 'seeds': (seed,)}
