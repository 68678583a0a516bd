"""Training ResNet-20, MobileNetV2, Conv-2 and -4 on a CPU, beside PyTorch and XLA's convolutions.

Wanted on two CPU cores: at least half of PyTorch's speed; XLA's own convolution trains ResNet-20 at
0.3 to 0.4 of it, Conv-2 at 0.15. Images a second. Measured:
configs/bench/results/conv.jsonl; MobileNetV2 is not measured yet.

    python -m launch.bench --config=configs/bench/conv.py [--out=rows.jsonl]

PyTorch is `pip install -e .[bench]`, or in another Python that --peer_python names. Images are
random: the times hold. 'quick': two steps of one network.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Training on images'
  c.benches = ('pictures',)
  c.pictures = dict(
    networks=dict(conv2=4) if quick else dict(resnet20=128, mobilenetv2=64, conv2=60, conv4=60),
    steps=2 if quick else 8,
    repeats=1 if quick else 3,
    sides=('xla',) if quick else ('xla', 'torch'),
  )
  return c
