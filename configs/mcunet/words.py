"""Search on spoken digits for an STM32F746: supernet, evolution, training, int8, C.

Lin et al., NeurIPS 2020, section 4.3, on Speech Commands: 35 words, 2.8 times as fast as the
largest network of before at 3.7 to 4.1 times less SRAM; not comparable: here ten digits, spoken 50
times by each of six people, of whom two are the test set (three folds, --config.data.fold=1). A
word is 32 moments of 32 mel bands (log energies less their mean; the variant 'cepstra' has their
cosines, MFCC, as DS-CNN does), and the space is of inverted bottlenecks: 8,000 networks. The
variant 'separable' has DS-CNN's own blocks (Zhang et al. 2017): 2,744 networks.

    python -m launch.run --config=configs/mcunet/words.py --workdir=runs/words --data_dir=DATA

Limits: 16 KB of SRAM, 32 KB of Flash. Variants: 'cepstra'; 'separable'; 'rank', the supernet's
order beside that of 24 networks trained by themselves; 'predicted', evolution as long as the
paper's (30 generations of 100) by a predictor trained on 300 networks' accuracies, and the last 100
judged by the supernet; 'quick'. Joined by a comma. Time: results/words.jsonl.
"""

from configs import energy
from configs.mcunet import setting
from configs.variants import split

STEPS = 2_000  # 71 epochs of 1.8K recordings, batch 64
LIMITS = dict(sram=16 * 1024, flash=32 * 1024)


def get_config(variant: str = ''):
  """variant: of 'cepstra', 'separable', 'rank', 'predicted' and 'quick', joined by a comma."""
  chosen = split(variant, ('cepstra', 'separable', 'rank', 'predicted', 'quick'))
  quick = 'quick' in chosen
  space = setting.SEPARABLE if 'separable' in chosen else setting.WORDS
  steps, every = (20, 10) if quick else (STEPS, 200)
  data = dict(name='spoken_words', fold=0, side=32)
  if 'cepstra' in chosen:
    data.update(cepstra=True)
  c = setting.begin('Search on spoken digits', data, space, steps, every)
  train = dict(steps=steps, batch=64, every=every, optimizer=setting.adam(3e-3, steps))
  if 'rank' in chosen:
    c.stages = ('supernet', 'rank')
    c.rank = dict(train, space=space, networks=24)
  else:
    c.stages = ('supernet', 'specialize', 'train', 'microcontroller')
    c.specialize = dict(space=space, **LIMITS, population=50, generations=10,
                        picojoules=energy.ON_CHIP, table='m7')  # fmt: skip
    if 'predicted' in chosen:
      c.specialize.update(population=100, generations=30, predicted=300, beside=False)
    c.train = dict(train, stage='tune')
    c.microcontroller = dict(board='stm32f746')
  if quick:
    c.seeds = (0,)
    small = dict(space, stages=((8, 8, (1, 2)),), kernels=(1, 3), stem=(8, 3, 2))
    c.supernet.update(space=small, random=0, batch=20)
    if 'rank' in chosen:
      c.rank.update(space=small, networks=3, batch=20)
    else:
      c.specialize.update(space=small, population=3, generations=1, beside=False)
      c.train.batch = 20
  c.tables = dict(a_rank=setting.agreement(), b_found=setting.found(), c_board=setting.trained(),
                  e_versus=setting.compared())  # fmt: skip
  if 'predicted' in chosen:
    c.tables.f_predictor = setting.predicted()
  return c


def sweep():
  """Search, from cosines, of separable convolutions, and ranks, one line a fold."""
  for variant in '', 'cepstra', 'cepstra,separable', 'rank':
    for fold in range(3):
      yield {'variant': variant, 'data.fold': fold}
