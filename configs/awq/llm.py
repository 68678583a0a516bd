"""A language model in few bits: Lin et al., AWQ, MLSys 2024, tables 4 and 5.

Expected there, Llama-2-7B on WikiText-2 (2,048 tokens, raw): FP16 5.47; INT4 in groups of 128
rounded 5.73, GPTQ 5.69, AWQ 5.60; INT3 6.66, 6.43, 6.24. Here: whatever folder, GGUF or llama2.c
file --config.model.path names, by default SmolLM2-135M-Instruct, whose weights were 4 bits in
groups of 32 before ("dequantised Q4_1"): it is quantized in groups of 64, which divide its width of
576. Text is the tokenized WikiText-2 in passages of 512, so that numbers are not the paper's.

    python -m launch.run --config=configs/awq/llm.py --config.model.path=FOLDER --workdir=runs/llm

It ends in a folder that vLLM and Transformers load, files/folder/model of the workdir;
--config.folder.format names another format (`written.Format`), such as awq-gemm or q4_1.

Variants, which combine: 'rtn' rounds only, 'gptq' rounds row by row, 'awq' (the default) scales and
clips, 'both' is AWQ followed by GPTQ, 'learned' is AWQ whose scales gradient descent goes on with;
'sequential' shows each linear to GPTQ as the packed linears before it in its block make it see;
'gram' judges scales of queries, keys and values, and of gate and up, by their own outputs instead
of that of attention or the MLP; 'int3' instead of 4 bits; 'part' measures 32 passages instead of
all 535; 'quick' calibrates on 8 passages and measures 4.

What a search found is in WORKDIR/files/awq/plan/plan.npz; it is applied in any number of bits by
--config.awq.plan=FILE. GPTQ looks at the text again even then.
"""

from ml_collections import config_dict

from configs.variants import split

METHODS = {
  'rtn': dict(scaling='none', clip=False),
  'gptq': dict(scaling='none', clip=False, rounding='gptq', follows='packed'),
  'awq': dict(scaling='awq', clip=True),
  'both': dict(scaling='awq', clip=True, rounding='gptq', follows='packed'),
  'learned': dict(scaling='learned', clip=True),
}
VARIANTS = (*METHODS, 'sequential', 'gram', 'int3', 'part', 'quick')


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  method = next((name for name in METHODS if name in variants), 'awq')
  quick = 'quick' in variants
  c = config_dict.ConfigDict()
  extra = ''.join(f', {name}' for name in ('sequential', 'gram') if name in variants)
  c.title = f'A language model in {3 if "int3" in variants else 4} bits: {method.upper()}{extra}'
  c.seeds = (0,)
  c.model = dict(path='smollm2')
  c.data = dict(
    name='passages',
    calibration='tinyshakespeare',
    test='wikitext-2',
    examples=8 if quick else 128,
    length=512,
    test_passages=4 if quick else 32 if 'part' in variants else None,
  )
  c.stages = ('awq', 'folder')
  c.awq = dict(
    bits=3 if 'int3' in variants else 4,
    group=64,
    **METHODS[method],
    sequential='sequential' in variants,
    tokens=0 if 'gram' in variants else 512,
    plan='',
  )
  # vLLM loads it in any dtype (AWQ's layout in 16 bits only), Transformers with one package less
  c.folder = dict(format='compressed-tensors')
  return c


def sweep():
  """The table: each method in 4 and in 3 bits, on a part of the text."""
  for bits in '', ',int3':
    for method in METHODS:
      yield {'variant': f'{method}{bits},part'}
