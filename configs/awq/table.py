"""Lin et al., AWQ, MLSys 2024, table 4: FP, RTN, GPTQ, GPTQ-R and AWQ in 3 and 4 bits.

Expected there (WikiText-2, raw, 2,048 tokens, groups of 128), Llama-2-7B: 5.47 before; in 3 bits
6.66, 6.43, 6.42, 6.24; in 4 bits 5.73, 5.69, 5.63, 5.60. The other columns of Llama-2 and LLaMA
stand beside ours as printed: these models were not run.

    python -m launch.run --config=configs/awq/table.py --workdir=runs/table
    python -m launch.sweep --config=configs/awq/table.py --workdir=runs/table --run

Ours: SmolLM2-135M-Instruct in groups of 64, all 535 passages of 512 tokens of the tokenized
WikiText-2 (validation), calibrated on 128 passages of Shakespeare. Its weights were 4 bits in
groups of 32 once ("dequantised Q4_1"), so that 4 bits hurt it less than they would a net that never
was. Variants: 'part' measures 32 passages, 'quick' 4.
"""

from ml_collections import config_dict

from configs.awq import setting
from configs.variants import split

BITS = (3, 4)
METHODS = ('rtn', 'gptq', 'gptq_r', 'awq')
LABELS = ('float', *(f'INT{b}, {setting.NAMES["net"][m]}' for b in BITS for m in METHODS))
PAPER = {  # table 4, in the order of LABELS
  'Llama-2 7B': (5.47, 6.66, 6.43, 6.42, 6.24, 5.73, 5.69, 5.63, 5.60),
  'Llama-2 13B': (4.88, 5.52, 5.48, 5.41, 5.32, 4.98, 4.98, 4.99, 4.97),
  'Llama-2 70B': (3.32, 3.98, 3.88, 3.86, 3.74, 3.46, 3.42, 3.43, 3.41),
  'LLaMA 7B': (5.68, 7.01, 8.81, 6.53, 6.35, 5.96, 6.22, 5.83, 5.78),
  'LLaMA 13B': (5.09, 5.88, 5.66, 5.64, 5.52, 5.25, 5.23, 5.20, 5.19),
  'LLaMA 30B': (4.10, 4.88, 4.88, 4.74, 4.61, 4.23, 4.24, 4.22, 4.21),
  'LLaMA 65B': (3.53, 4.24, 4.17, 4.21, 3.95, 3.67, 3.66, 3.66, 3.62),
}


def get_config(variant: str = ''):
  """variant: '', 'part' or 'quick'."""
  variants = split(variant, ('part', 'quick'))
  quick = 'quick' in variants
  c = config_dict.ConfigDict()
  c.title = f'Table 4 of AWQ: {setting.TITLES["smollm2"]}'
  c.seeds = (0,)
  c.model = dict(path='smollm2')
  c.data = setting.text('smollm2', 32 if 'part' in variants else None, quick=quick)
  c.stages = ('weights',)
  c.weights = dict(
    stage='compare',
    baseline=dict(net='rtn'),
    methods=setting.methods(*(('rtn', 'gptq_r') if quick else METHODS)),
    grid=dict(bits=BITS[:1] if quick else BITS, group=(64,)),
    divergence=False,
  )
  paper = tuple((f'{model}, the paper', tuple(zip(LABELS, (f'{x:.2f}' for x in column))))
                for model, column in PAPER.items())  # fmt: skip
  made = setting.table(
    'Perplexity', ('perplexity', 'perplexity_change'), rows=('bits', 'net'),
    where=dict(bits=BITS, net=('float', *METHODS)), paper=paper,
    note="Change: against RTN, 95 % interval over passages. The paper's models were not run.",
  )  # fmt: skip
  ours = dict(perplexity='ours', perplexity_change='ours, change')
  c.tables = dict(table=dict(made, names=setting.NAMES | ours))
  return c


def sweep():
  """3 and 4 bits, a line each."""
  for bits in BITS:
    yield {'weights.grid.bits': (bits,)}
