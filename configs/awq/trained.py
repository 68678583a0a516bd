"""Training in few bits beside rounding afterwards: LeNet-300-100 on MNIST.

Jacob et al. 2018 (QAT) and Esser et al. 2020 (LSQ) against RTN, GPTQ and AWQ of the same net.
Expected: in 8 and 4 bits no difference worth training for, below that training wins (LSQ: ResNet-18
on ImageNet loses 0.4 points at 3 bits and 2.9 at 2).

    python -m launch.run --config=configs/awq/trained.py --workdir=runs/trained

Three seeds of a net trained for 6,000 steps; QAT and LSQ train on for 1,200 steps (a tenth of the
first rate). Symmetric scales of whole tensors, columns and groups of 64 (784 rows end with 16), all
layers but the last. Inputs stay floats: weights and inputs of 8 bits are trained in
configs/mcu/qat.py.
Variant 'quick': two bits, LSQ beside rounding to nearest, 60 steps.
"""

from ml_collections import config_dict

from configs.awq import setting
from configs.claims import lines
from configs.variants import split

SEEDS = (0, 1, 2)
BITS = (8, 4, 3, 2)
GROUPS = ('tensor', 'channel', 64)
PTQ = ('rtn', 'gptq', 'awq')


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = 'quick' in split(variant, ('quick',))
  c = config_dict.ConfigDict()
  c.title = 'Trained in few bits or rounded afterwards: LeNet-300-100 on MNIST'
  c.seeds = SEEDS[:1] if quick else SEEDS
  c.data = dict(name='mnist', validation=5_000)
  c.model = dict(name='lenet', widths=(300, 100))
  schedule = lambda steps, rate: dict(
    steps=60 if quick else steps, batch=60, every=60 if quick else 600,
    optimizer=dict(name='adam', learning_rate=rate),
  )  # fmt: skip
  on = dict(schedule(1_200, 1.2e-4), stage='qat')
  methods = {
    name: {k: v for k, v in setting.METHODS[name].items() if k != 'follows'}
    | dict(stage='quantize')
    for name in PTQ
  }
  methods |= dict(qat=on, lsq=dict(on, learned=True))
  if quick:
    methods = {name: methods[name] for name in ('rtn', 'lsq')}
  c.stages = ('dense', 'few')
  c.dense = dict(schedule(6_000, 1.2e-3), stage='tune')
  c.few = dict(
    stage='compare',
    methods={name: dict(how, symmetric=True) for name, how in methods.items()},
    grid=dict(bits=BITS[-1:] if quick else BITS, group=GROUPS[1:2] if quick else GROUPS),
  )
  c.tables = dict(accuracy=setting.table(
    'Test accuracy', 'accuracy', rows=('group', 'bits'), columns='net',
    where=dict(bits=BITS, group=GROUPS, net=('float', *methods)),
    note='Mean [least, greatest] over seeds.',
  ))  # fmt: skip
  c.paper = {} if quick else claims()
  return c


def claims():
  """Training on against rounding, paired by seed."""
  cell = lambda bits, net, against, group='channel': dict(
    kind='cell', bits=bits, group=group, net=net, key='accuracy', how='difference',
    against=dict(net=against),
  )  # fmt: skip
  return lines(
    Q1=('4 bits: QAT against RTN', 'little', cell(4, 'qat', 'rtn')),
    Q2=('3 bits: QAT against RTN', '+', cell(3, 'qat', 'rtn')),
    Q3=('2 bits: QAT against RTN', '+', cell(2, 'qat', 'rtn')),
    Q4=('2 bits: LSQ against QAT', '+', cell(2, 'lsq', 'qat')),
    Q5=('2 bits: AWQ against RTN', '+', cell(2, 'awq', 'rtn')),
    Q6=('2 bits: GPTQ against RTN', '+', cell(2, 'gptq', 'rtn')),
    Q7=('2 bits, groups of 64: LSQ against GPTQ', '+', cell(2, 'lsq', 'gptq', 64)),
    Q8=('3 bits, whole tensors: QAT against GPTQ', '+', cell(3, 'qat', 'gptq', 'tensor')),
  )


def sweep():
  """One line a seed."""
  for seed in SEEDS:
    yield {'seeds': (seed,)}
