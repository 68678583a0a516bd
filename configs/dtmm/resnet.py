"""ResNet-12 on CIFAR-10: DTMM (Han et al., INFOCOM 2024), figure 11 a, its axes.

Expected: as for VGG-11 (configs/dtmm/vgg.py), here with residual blocks, whose filters are tied: a
filter goes from all terms of a sum or from none, and 1 x 1 shortcuts lose whole filters only. In
full for a GPU.

    python -m launch.run --config=configs/dtmm/resnet.py --workdir=runs/dtmm-resnet --data_dir=DATA

Variants, which combine: 'mini' is scaled down for a CPU (4 channels where the paper has 32, 2,400
steps, 7 epochs, and 300 a level, of which there are three, and fewer methods); 'wake' is visual
wake words (figure 11 b) instead of CIFAR-10; 'lottery' and 'taught' are those of digits.py;
'schedule' chooses filters and filterlets of every layer for the fewest instructions within 512 KiB
of Flash and 128 KiB of RAM; 'quick' is a few steps of a narrow net.
"""

from ml_collections import config_dict

from configs.dtmm import setting
from configs.variants import split

VARIANTS = ('mini', 'wake', 'lottery', 'taught', 'schedule', 'quick')
LEVELS = (0.6, 0.4, 0.25, 0.15, 0.1)


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  mini, quick = 'mini' in variants, 'quick' in variants
  c = config_dict.ConfigDict()
  c.title = 'Filterlets: ResNet-12 on CIFAR-10'
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='cifar10', validation=5_000, augment='flip_and_crop')
  c.model = dict(name='resnet', layers=8, width=4) if quick else dict(name='resnet12', width=32)
  c.stages = ('train',)
  epoch = (110_000 if 'wake' in variants else 45_000) // 128
  steps, more = (20, 10) if quick else (60 * epoch, 15 * epoch)
  adam = dict(name='adam', learning_rate=1e-3, l2=1e-4, cosine=steps)
  if mini:
    c.title = 'Filterlets: ResNet-12 from 4 channels on CIFAR-10 (JPEG)'
    c.model = dict(name='resnet12', width=4)
    steps, more = 2_400, 300
    adam = dict(name='adam', learning_rate=2e-3, cosine=steps)
  every = 10 if quick else 150 if mini else epoch
  again = dict(adam, learning_rate=adam['learning_rate'] / 2, cosine=more)
  training = dict(steps=more, batch=128, every=every, optimizer=again)
  c.train = dict(stage='tune', steps=steps, batch=128, every=every, optimizer=adam)
  setting.finish(
    c, variants, (0.4, 0.2, 0.1) if mini else LEVELS,
    losses=(0.1,) if quick else (0.02, 0.05, 0.1, 0.2), limits=dict(flash=2**19, ram=2**17),
    methods=setting.FEW if mini else tuple(setting.METHODS), **training,
  )  # fmt: skip
  return c


def sweep():
  """The picture, the tickets, the teacher and the scheduler, a line a seed."""
  yield from setting.seeds()
