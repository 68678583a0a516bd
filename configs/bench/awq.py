"""AWQ of a language model on a CPU: minutes by phase, memory at the peak, beside qwix's; one GPTQ.

Wanted on two CPU cores, SmolLM2-135M with 128 passages of 512 tokens: AWQ followed by GPTQ at least
three times as fast as in qwix 0.1.8 on the same layers, GPTQ of 4,096 x 4,096 in seconds. Measured:
configs/bench/results/awq.jsonl.

    python -m launch.bench --config=configs/bench/awq.py [--out=rows.jsonl]

qwix is `pip install -r third_party/requirements-qwix.txt` in another Python, which --peer_python
names. Variants: 'layers' leaves the model out, 'quick' does too and is small.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '', 'layers' or 'quick'."""
  variants = split(variant, ('layers', 'quick'))
  quick = 'quick' in variants
  c = config_dict.ConfigDict()
  c.title = 'AWQ and GPTQ'
  c.benches = ('quantized_layers',) if variants else ('quantized_model', 'quantized_layers')
  if not variants:
    c.quantized_model = dict(
      model='smollm2',
      calibration='tinyshakespeare',
      examples=128,
      length=512,
      group=64,
      blocks=4,  # of 30, alike but for their numbers
    )
  c.quantized_layers = dict(
    # what reads each input of a block of SmolLM2-135M: rows -> columns of the kernels
    layers=((16, (24,)),) if quick else (
      (576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,)),
    ),
    tokens=32 if quick else 4_096,
    group=8 if quick else 64,
    size=32 if quick else 4_096,  # of the layer that GPTQ rounds alone
    repeats=1 if quick else 3,
    peers=() if quick else ('qwix',),
  )  # fmt: skip
  return c
