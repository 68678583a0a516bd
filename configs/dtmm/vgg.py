"""VGG-11 on CIFAR-10: DTMM (Han et al., INFOCOM 2024), figure 11 a, its axes.

Expected: at equal bytes of Flash filterlets keep more accuracy than whole filters, and at equal
accuracy they need fewer bytes than single weights in CSR; by how much the paper's figure says
without digits. The paper's protocol: Adam at 1e-3 that falls, batches of 32, retraining after one
prune; here each level prunes the last one. Read from JPEG files the data are 'CIFAR-10 (JPEG)',
which does not compare with published numbers to the point.

    python -m launch.run --config=configs/dtmm/vgg.py:mini --workdir=runs/dtmm-vgg --data_dir=DATA

Found ('mini'): fewer bytes than filters at equal accuracy; beside CSR no difference.

Variants, which combine: 'mini' is scaled down for a CPU (8 channels where the paper has 32, 2,400
steps, 7 epochs, and 300 a level, of which there are three); 'wake' is visual wake words (figure
11 b) instead; 'lottery' and 'taught' are those of digits.py; 'schedule' chooses filters and
filterlets of every layer for the fewest instructions within 512 KiB of Flash and 128 KiB of RAM
('mini': 64 KB and 32 KB); 'quick' is a few steps. In full for a GPU: on two CPU cores an epoch
takes six minutes.
"""

from ml_collections import config_dict

from configs.dtmm import setting
from configs.variants import split

VARIANTS = ('mini', 'wake', 'lottery', 'taught', 'schedule', 'quick')
LEVELS = (0.6, 0.4, 0.25, 0.15, 0.1)
LOSSES = (0.02, 0.05, 0.1, 0.2, 0.3)


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  mini, quick = 'mini' in variants, 'quick' in variants
  c = config_dict.ConfigDict()
  c.title = 'Filterlets: VGG-11 on CIFAR-10'
  c.seeds = (0, 1, 2)
  c.data = dict(name='cifar10', validation=5_000, augment='flip_and_crop')
  c.model = dict(name='vgg11', width=32)
  c.stages = ('train',)
  epoch = (110_000 if 'wake' in variants else 45_000) // 128
  steps, more = 60 * epoch, 15 * epoch
  adam = dict(name='adam', learning_rate=1e-3, l2=1e-4, cosine=steps)
  if mini:
    c.title = 'Filterlets: VGG-11 from 8 channels on CIFAR-10 (JPEG)'
    c.model = dict(name='vgg11', width=8)
    steps, more = 2_400, 300
    adam = dict(name='adam', learning_rate=2e-3, cosine=steps)
  if quick:
    c.seeds = (0,)
    c.model = dict(name='vgg', layers=(4, 'pool', 4, 'pool'))
    steps, more = 20, 10
  every = 10 if quick else 150 if mini else epoch
  again = dict(adam, learning_rate=adam['learning_rate'] / 2, cosine=more)
  training = dict(steps=more, batch=128, every=every, optimizer=again)
  c.train = dict(stage='tune', steps=steps, batch=128, every=every, optimizer=adam)
  setting.finish(
    c, variants, (0.4, 0.2, 0.1) if mini else LEVELS, losses=(0.5,) if quick else LOSSES,
    limits=dict(flash=64_000, ram=32_000) if mini or quick else dict(flash=2**19, ram=2**17),
    **training,
  )  # fmt: skip
  return c


def sweep():
  """The picture, the tickets, the teacher and the scheduler, a line a seed."""
  yield from setting.seeds()
