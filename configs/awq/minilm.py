"""The same methods on weights that were never quantized: all-MiniLM-L6-v2, an encoder of sentences.

Lin et al. (AWQ, 2024) and Frantar et al. (GPTQ, 2023) have no encoders; expected is their order on
decoders: AWQ and GPTQ better than rounding, most in 3 bits.

    python -m launch.run --config=configs/awq/minilm.py --workdir=runs/minilm

Measured: the squared error of every linear's output relative to its squares, on the 256 training
sentences of SST-2 that calibrated it, and that of the sentence vector (the mean over tokens, 384
numbers) on the first 256 test sentences, which nothing was fitted to. In such a net a norm follows
each sum, and its output goes on to the next sum, so that scales can hide in no norm and, behind a
GELU, not in the inner layer either: AWQ scales the input of the attention's output alone, and
otherwise clips. Variant 'quick': 3 bits, two methods, 64 sentences.
"""

from ml_collections import config_dict

from configs.awq import setting
from configs.distill.bert import MODEL, SIZES
from configs.variants import split

BITS, GROUPS = (8, 4, 3), ('channel', 64)
METHODS = ('rtn', 'gptq', 'awq')


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = 'quick' in split(variant, ('quick',))
  c = config_dict.ConfigDict()
  c.title = f'Few bits on weights that were never quantized: {MODEL}'
  c.seeds = (0,)
  c.data = dict(name='sst2', tokenizer=MODEL, length=32)
  c.model = dict(SIZES, name='bert', layers=6, classes=0)
  c.stages = ('pretrained', 'weights')
  c.pretrained = dict(path=MODEL, fresh=())
  how = {name: {k: v for k, v in setting.METHODS[name].items() if k != 'follows'}
         for name in METHODS}  # fmt: skip
  examples = dict(examples=64, batch=32) if quick else dict(examples=256)
  c.weights = dict(
    stage='compare',
    baseline=dict(net='rtn'),
    methods={n: dict(how[n], stage='quantize', **examples) for n in METHODS[:: 2 if quick else 1]},
    grid=dict(bits=BITS[-1:] if quick else BITS, group=GROUPS[-1:] if quick else GROUPS),
    each=True,
    items=64 if quick else 256,
  )
  c.tables = tables()
  return c


def tables():
  """The sentence vector, its change against rounding, and the linears by their place in a layer."""
  seen = dict(rows='group', columns=('bits', 'net'))
  where = dict(net=METHODS, bits=BITS, group=GROUPS)
  linears = setting.table(
    'The outputs of all linears, relative squared error in groups of 64: mean [least, greatest] '
    'over six layers', 'error', rows='part', columns=('bits', 'net'), where=dict(where, group=64),
  )  # fmt: skip
  return dict(
    a=setting.table('The sentence vector, relative squared error', 'output_error', where=where,
                    **seen),
    b=setting.table(
      'The same against rounding to nearest', 'output_error_change',
      where=dict(where, net=METHODS[1:]), note='95 % intervals over sentences.', **seen,
    ),
    c=dict(linears, kind='quantized'),
  )  # fmt: skip


def sweep():
  """Each number of bits."""
  for bits in BITS:
    yield {'weights.grid.bits': (bits,)}
