"""The landscape of quantization, one protocol: granularity x method x bits; inputs in 8 bits too.

Lin et al., AWQ, MLSys 2024, and Xiao et al., SmoothQuant, ICML 2023; no paper has it all in one
table. Expected, from table 4 of the first (Llama-2-7B, groups of 128, WikiText-2 5.47 before):
rounding to nearest 6.66 in 3 bits, 5.73 in 4; GPTQ 6.43 and 5.69; AWQ 6.24 and 5.60. From the
second: inputs in 8 bits ruin models whose inputs have outliers unless these are smoothed.

    python -m launch.run --config=configs/awq/landscape.py:stories --workdir=runs/landscape-stories
    python -m launch.sweep --config=configs/awq/landscape.py --workdir=runs/landscape --run

By default SmolLM2-135M-Instruct on the first 32 passages of 512 tokens of the tokenized WikiText-2
(validation), calibrated on 128 passages of Shakespeare; groups of 64 and 192 divide its width of
576. Its weights were 4 bits in groups of 32 once ("dequantised Q4_1"), which makes the same groups
in 4 bits nearly free: groups of 32 are never reported on it. The sweep runs a granularity a line;
`launch.report` puts the lines into one table.

Variant 'stories': stories260K (llama2.c), whose weights were never quantized: width 64, inner
layers of 172, whose last group is shorter. It was trained on short stories that are not here, and
on any text that is it predicts badly, so that its perplexity may even fall as it is damaged. What
is compared is therefore how far its predictions move, on 64 passages of 256 tokens: the mean of
KL(float || quantized) over tokens, which is 0 for the same net and above for every other. AWQ and
GPTQ are defined for groups; per tensor, AWQ's clipping is chosen column by column for a step that
all share. QAT learns from the same text what the float net says of it (Liu et al., LLM-QAT, 2024).

Variants beside it: 'inputs', these alone; 'trained', QAT beside rounding of SmolLM2 in 4 and 3 bits
and groups of 64, half an hour of a core and 19 GB; 'quick', one granularity, no GPTQ, 4 passages.
Training from labels, and with learned steps, has a table in configs/awq/trained.py.
"""

from ml_collections import config_dict

from configs.awq import setting
from configs.variants import split

BITS = (8, 4, 3)
CHANGES = dict(smollm2='perplexity', stories='divergence')


def get_config(variant: str = ''):
  """variant: '' or 'stories', and 'quick', 'inputs' or 'trained', joined by a comma."""
  variants = split(variant, ('stories', 'quick', 'inputs', 'trained'))
  name, quick = setting.model(variants), 'quick' in variants
  chosen = setting.MODELS[name]
  groups = chosen['groups'][-1:] if quick else chosen['groups']
  c = config_dict.ConfigDict()
  c.title = f'The landscape of quantization: {setting.TITLES[name]}'
  c.seeds = (0,)
  c.model = dict(path=chosen['path'])
  c.data = setting.text(name, dict(smollm2=32, stories=64)[name], quick=quick)
  eight = dict(stage='awq', bits=8, symmetric=True, clip=False)
  c.stages = ('weights', 'inputs')
  names = chosen_methods(variants)
  c.weights = dict(
    stage='compare',
    baseline=dict(net='rtn'),
    methods=setting.methods(*names, model=name, quick=quick),
    grid=dict(bits=BITS[1:2] if quick else BITS, group=groups),
  )
  c.inputs = dict(
    stage='compare',
    baseline=dict(net='naive'),
    methods=dict(naive=dict(eight, scaling='none'), smooth=dict(eight, scaling='smooth')),
    grid=dict(group=('channel',) if quick else ('tensor', 'channel'),
              activations=('token',) if quick else ('tensor', 'token')),
  )  # fmt: skip
  if 'inputs' in variants:
    del c.weights
    c.stages = ('inputs',)
  if 'trained' in variants:
    del c.inputs
    c.stages = ('weights',)
    c.weights.grid = dict(bits=BITS[1:], group=groups[-1:])
  c.tables = tables(names, chosen['groups'], CHANGES[name])
  return c


def chosen_methods(variants: set[str]) -> tuple[str, ...]:
  """What makes weights small: QAT where the model is little, or it alone beside rounding."""
  if 'trained' in variants:
    return 'rtn', 'qat'
  names = ('rtn', 'awq') if 'quick' in variants else ('rtn', 'gptq', 'awq')
  return names + (('qat',) if 'stories' in variants else ())


def tables(names: tuple[str, ...], groups: tuple, measure: str):
  """The landscape, what methods change against rounding, and inputs in 8 bits."""
  where = dict(stage='weights', group=groups, bits=BITS)
  both = dict(where, net=('float', *names))
  seen = dict(rows='group', columns=('bits', 'net'))
  found = dict(
    b_against=setting.table(
      f'{measure.capitalize()} against rounding to nearest', f'{measure}_change',
      where=dict(where, net=names[1:]), note='95 % intervals over passages.', **seen,
    ),
    c_inputs=setting.table(
      'Weights and inputs in 8 bits: SmoothQuant against inputs as they are',
      (measure, f'{measure}_change'), rows=('group', 'activations'), columns='net',
      where=dict(stage='inputs', net=('naive', 'smooth'), group=('tensor', 'channel')),
      note='95 % intervals over passages.',
    ),
    d_perplexity=setting.table('Perplexity', 'perplexity', where=both, **seen),
  )  # fmt: skip
  if measure == 'divergence':
    found['a_divergence'] = setting.table(
      'KL(float || quantized), nats a token', measure, where=dict(both, net=both['net'][1:]), **seen
    )  # fmt: skip
  return found


def sweep():
  """A granularity a line; inputs in 8 bits with the first two, as whole columns have one scale."""
  for group in setting.MODELS['smollm2']['groups']:
    inputs = group if group in ('tensor', 'channel') else 'channel'
    yield {'weights.grid.group': (group,), 'inputs.grid.group': (inputs,)}
