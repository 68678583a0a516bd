"""Integers rounded to after training against integers trained in, on handwritten digits.

Jacob et al., CVPR 2018, section 3, and Krishnamoorthi 2018, sections 3 and 5: rounding to 8 bits
costs a net little, with scales by channel also one of depthwise convolutions; with weights of 4
bits and fewer rounding alone costs accuracy, most of which training in those bits gets back. A
MobileNetV2 of two blocks on scikit-learn's 1,797 digits, two CPU cores; time: in the results. Each
net is written as int8 C and judged in the interpreter that the C is equal to.

    python -m launch.run --config=configs/mcu/qat.py --workdir=runs/qat

Differs from the papers: the data and the size of the net; training begins with a trained net, whose
batch moments normalize for half of the steps. Variant 'longer': what is rounded was trained in
floats for as many steps as the others in all; 'quick': plain convolutions, one seed, 4 bits, a few
steps.
"""

from ml_collections import config_dict

from configs.variants import split

BITS = (8, 4, 3)
NAMES = {f'{how}{bits}': f'{bits} bits, {words}' for bits in BITS
         for how, words in (('ptq', 'rounded'), ('deploy', 'trained'))}  # fmt: skip


def get_config(variant: str = ''):
  """variant: '', 'longer' or 'quick'."""
  chosen = split(variant, ('longer', 'quick'))
  quick, longer = 'quick' in chosen, 'longer' in chosen
  c = config_dict.ConfigDict()
  c.title = 'Trained in integers'
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='digits')
  c.model = dict(name='vgg', layers=(4, 'pool', 4)) if quick else dict(
    name='mobilenetv2', width=0.5, head=0, strides=(1, 1, 2), stages=((1, 16, 1), (4, 32, 1)),
  )  # fmt: skip
  steps, more = (40, 20) if quick else (400, 300)
  every = 20 if quick else 50
  steps += more if longer else 0
  adam = dict(name='adam', learning_rate=3e-3, cosine=steps)
  again = dict(name='adam', learning_rate=2e-3, cosine=more)
  c.train = dict(stage='tune', steps=steps, batch=60, every=every, optimizer=adam)
  c.stages = ('train',)
  for bits in BITS[1:2] if quick else BITS:
    board = dict(board='stm32f412')
    parts = {
      f'ptq{bits}': dict(board, stage='microcontroller', bits=bits, of='train'),
      f'qat{bits}': dict(stage='qat_mcu', steps=more, batch=60, every=every, optimizer=again,
                         bits=bits, freeze=more // 2, of='train'),
      f'deploy{bits}': dict(board, stage='microcontroller'),
    }  # fmt: skip
    for name in list(parts)[:1] if longer else list(parts)[1:] if quick else parts:
      c[name] = parts[name]
      c.stages = (*c.stages, name)
  c.tables = dict(a=dict(
    title='Weights of so many bits, activations of 8', kind='microcontroller', rows='at',
    values=('float_accuracy', 'int8_accuracy', 'changed_predictions', 'equal_in_c', 'arena',
            'constants'),
    where=dict(at=tuple(NAMES)),
    names=dict(
      at=NAMES, float_accuracy='before it is C', int8_accuracy='in integers', arena='arena, B',
      changed_predictions='predictions that differ, of 300', constants='constants, B',
      equal_in_c='of 20 images, C as interpreted',
    ),
    note='Of rounded nets the first column is that of floats; of trained ones that of the net in '
    'training, which computes as the integers do. Weights of fewer bits are stored as int8.',
  ))  # fmt: skip
  return c


def sweep():
  """A line a seed of each variant."""
  for variant in '', 'longer':
    for seed in (0, 1, 2):
      yield {'variant': variant, 'seeds': (seed,)}
