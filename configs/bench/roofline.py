"""Why weights in 4 bits help one user: Lin et al., AWQ, MLSys 2024, figure 3, its three panels.

Expected there (Llama-2-7B in FP16 on an RTX 4090, 165 TFLOP/s and 1 TB/s): a prompt of 200 tokens
takes 10 ms, an answer of 20 takes 310; an answer makes about 1 operation a byte, in 4 bits about 4;
attention moves 134 MB of weights and 0.2 MB of activations a token, the MLP 271 and 0.2.

    python -m launch.bench --config=configs/bench/roofline.py [--out=rows.jsonl]
    python -m launch.report configs/bench/results/roofline.jsonl --html=page.html

Llama-2-7B and 70B from their sizes alone, SmolLM2-135M also measured:
configs/bench/results/roofline.jsonl. Variant 'sizes': no model is run; 'quick' is the same.
"""

from ml_collections import config_dict

from configs.variants import split

MODELS = {
  'Llama-2-7B': dict(
    layers=32, width=4096, heads=32, kv_heads=32, inner=11008, vocabulary=32000,
  ),
  'Llama-2-70B': dict(
    layers=80, width=8192, heads=64, kv_heads=8, inner=28672, vocabulary=32000,
  ),
  'SmolLM2-135M': dict(
    layers=30, width=576, heads=9, kv_heads=3, inner=1536, vocabulary=49152,
  ),
}  # fmt: skip


def get_config(variant: str = ''):
  """variant: '', 'sizes' or 'quick'."""
  variants = split(variant, ('sizes', 'quick'))
  c = config_dict.ConfigDict()
  c.title = 'On the roofline'
  c.benches = ('roofline',)
  c.roofline = dict(
    models=MODELS,
    # as their makers state them: dense FP16 tensor cores, memory
    devices={
      'RTX 4090': dict(flops=165e12, bytes=1008e9), 'H100': dict(flops=989e12, bytes=3350e9)
    },
    prompt=200,
    answer=20,
    bits=(16, 4),
    group=128,
    measured='' if variants else 'smollm2',
  )  # fmt: skip
  c.figures = dict(figure3=dict(
    title='Figure 3: one user is bound by memory', spread='none', x_scale='log', y_scale='log',
    panels=dict(
      a=dict(title='(a) Llama-2-7B on an RTX 4090, from sizes', kind='roofline', x='bits', y='s',
             x_label='bits of a weight', y_label='seconds', lines='stage', x_ticks=(4, 16),
             where=dict(model='Llama-2-7B', device='RTX 4090', stage=['prompt', 'answer'])),
      b=dict(title='(b) prompts and answers on the roofline', kind='roofline', x='flops_per_byte',
             x_label='operations a byte', y='gflops', y_label='GFLOP a second', lines='device'),
      c=dict(title='(b) measured: SmolLM2-135M', kind='roofline_measured', x='flops_per_byte',
             x_label='operations a byte', y='gflops', y_label='GFLOP a second', lines='weights',
             dashed='this machine', where=dict(weights=['INT4', 'float32', 'this machine'])),
      d=dict(title='(c) what a token moves in a block', kind='roofline_part', x='weight_bytes',
             x_label='bytes of weights', x_ticks=(1e6, 1e7, 1e8, 1e9), lines='model',
             y='activation_bytes', y_label='bytes of activations'),
    ),
  ))  # fmt: skip
  return c
