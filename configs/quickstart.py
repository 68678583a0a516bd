"""Lottery tickets on scikit-learn's digits, a small student of the last one, its C: in a minute.

A 300-100 network on 1,797 real 8 x 8 images, pruned 8 times by 30 % with rewinding, three seeds,
each ticket beside its random reinitialization; then each ticket teaches a network of 30 hidden
units, which becomes int8 C for a microcontroller (files/microcontroller/c in the workdir). For the
papers' own settings see configs/lottery/lenet.py, configs/distill/mnist.py and configs/mcu.

    python -m launch.run --config=configs/quickstart.py --workdir=runs/quickstart
"""

from ml_collections import config_dict

from configs.lottery import figures
from configs.mcu.digits import MEASURED, microcontroller


def get_config(variant: str = ''):
  """variant 'quick': two levels."""
  c = config_dict.ConfigDict()
  c.title = 'Lottery tickets on handwritten digits'
  c.seeds = (0, 1, 2)
  c.data = dict(name='digits')
  c.model = dict(name='lenet', widths=(300, 100))
  c.stages = ('lottery', 'student', 'microcontroller')
  c.lottery = dict(
    rounds=1 if variant == 'quick' else 8,
    rates=(('out/kernel', 0.15), ('kernel', 0.3)),
    procedure='resetting',
    steps=1_000,
    batch=60,
    every=50,
    optimizer=dict(name='adam', learning_rate=1.2e-3),
    controls=dict(reinit=dict(draws=1)),
  )
  c.student = dict(
    stage='distill',
    teachers=('lottery',),
    student=dict(name='mlp', widths=(30,)),
    temperature=4.0,
    hard=0.1,
    steps=100 if variant == 'quick' else 1_000,
    batch=60,
    every=50,
    optimizer=dict(name='adam', learning_rate=3e-3),
  )
  c.microcontroller = dict(board='stm32f746')
  c.tables = dict(c=microcontroller(*MEASURED))
  c.figures = dict(figure1=figures.figure1())
  return c
