"""Filterlets against filters and single weights on digits: DTMM at its smallest.

Han et al., DTMM, INFOCOM 2024, figure 11, its axes: accuracy against bytes. Expected: at equal
bytes filterlets keep more accuracy than filters, and at equal accuracy they need fewer bytes than
single weights in CSR. scikit-learn's 1,797 digits, a VGG of four layers, three seeds, two CPU
cores; time: in the results. Each level trains for as long as the first net did: a fifth of it is
too short for all by validation accuracy, three times as long gains nothing. The smallest net of
each method that loses at most 1 point of validation accuracy is kept; that of filterlets becomes C.

    python -m launch.run --config=configs/dtmm/digits.py --workdir=runs/dtmm-digits

Found: so they do beside filters that compete over all layers, not beside those whose layers are
normalized, or keep the same share each.

Variants, which combine: 'all' adds pairs of filterlets, patterns and N:M; 'lottery' asks whether
filterlet tickets win: after each prune training begins again, from the first weights and, with the
same masks, from fresh ones; 'taught' lets the net before it was pruned teach; 'schedule' chooses
filters and filterlets of every layer for the fewest instructions within a Flash and a RAM; 'small'
does so for a net of twice the width, which a board of 64 KiB refuses as it was trained; 'quick' is
one seed of a few steps.
"""

from ml_collections import config_dict

from configs.dtmm import setting
from configs.variants import split

VARIANTS = ('all', 'lottery', 'taught', 'schedule', 'small', 'quick')
LEVELS = (0.6, 0.4, 0.25, 0.15)


def get_config(variant: str = ''):
  """variant: any of VARIANTS, joined by commas."""
  variants = split(variant, VARIANTS)
  quick = 'quick' in variants
  c = config_dict.ConfigDict()
  c.title = 'Filterlets on digits'
  c.seeds = (0,) if quick else (0, 1, 2)
  c.data = dict(name='digits')
  c.model = dict(name='vgg', layers=(8, 'pool', 8) if quick else (16, 16, 'pool', 32, 32))
  c.stages = ('train',)
  adam = dict(name='adam', learning_rate=3e-3)
  training = dict(steps=20 if quick else 300, batch=60, every=20, optimizer=adam)
  c.train = dict(stage='tune', steps=40 if quick else 300, batch=60, every=20, optimizer=adam)
  levels = LEVELS[1:2] if quick else LEVELS
  if 'lottery' in variants:
    setting.tickets(c, levels, data='digits', **dict(training, steps=c.train.steps))
    return c
  if 'taught' in variants:
    setting.lesson(c, levels, data='digits', **training)
    return c
  if variants & {'schedule', 'small'}:
    board = dict(board='stm32f412', flash=16_000, ram=6_000)
    if 'small' in variants:
      c.model = dict(name='vgg', layers=(32, 32, 'pool', 64, 64))
      board = dict(board='stm32f301', flash=50_000, ram=12_000)
    losses = (0.1,) if quick else (0.1, 0.2, 0.3, 0.4, 0.5)
    rounds = dict(training, steps=20 if quick else 900)  # what the third of four levels has had
    setting.scheduled(c, losses, tolerance=1.0 if quick else 0.01, **board, **rounds)
    return c
  methods = tuple(setting.METHODS) if 'all' in variants else setting.FEW
  setting.add(c, (setting.OURS,) if quick else methods, levels, data='digits', **training)
  c.deploy = dict(
    stage='microcontroller', of=setting.OURS, board='stm32f412', images=256, sparse='bytes'
  )
  c.stages = (*c.stages, 'deploy')
  return c


def sweep():
  """The picture, the tickets, the teacher and the scheduler, a line a seed."""
  for variant in 'all', 'lottery', 'taught', 'schedule', 'small':
    for seed in (0, 1, 2):
      yield {'variant': variant, 'seeds': (seed,)}
