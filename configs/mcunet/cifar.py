"""Search on CIFAR-10 for an STM32F746: supernet, evolution, training, int8, C; beside MobileNetV2.

Lin et al., NeurIPS 2020, whose ImageNet figures (70.7 % in 512 KB of SRAM and 2 MB of Flash, where
MobileNetV2 scaled to fit has 3 to 11 points less) are not comparable. Expected: the evolved network
is no worse than the best of as many random ones and than MobileNetV2 scaled to the same SRAM. In
full it is for a GPU and not run yet (592,704 networks of 1.6 to 7.7 M multiply-accumulates; three
seeds of 8,000 steps of 4 networks, 23 epochs).

    python -m launch.run --config=configs/mcunet/cifar.py --workdir=runs/cifar --data_dir=DATA

Limits: 50 KB of SRAM, 136 KB of Flash, of which MobileNetV2 at a width of 0.2 takes 49,350 and
132,626 bytes: it is trained and deployed the same way, and the two are paired; so is the network
found when it is trained afresh, without the supernet's weights. Variants, joined by a comma:
- 'rank' also compares the supernet's order with that of 24 networks trained by themselves;
- 'order' does that alone, in a smaller space, 8,100 networks;
- 'finalists' lets evolution, random search by the supernet and random search without one train four
  networks each of that space, within the same memory and of at most MACS;
- 'choose' shows the spaces of 32 and 16 pixels and three widths in the order of TinyNAS, without
  training; 'best' and 'worst' search the first and the last of them (paper, on ImageNet: 78.7 and
  74.2 %);
- 'board' searches in all the memory that an STM32F746 has, but for a stack and code, the widest of
  wider spaces ('board,choose'), beside MobileNetV2 at 0.7, the widest that fits the board;
- 'fast' allows 8 M instructions; 'reward' takes MnasNet's soft reward with that target instead;
- 'small', for a CPU: means of 2 x 2 pixels, a quarter of the SRAM but on a board, 10,000 training
  images, 1,500 steps, fewer networks judged;
- 'quick'.
"""

from configs import energy
from configs.mcunet import setting
from configs.variants import split

STEPS = 8_000  # 23 epochs of 45K images, batch 128
SMALL_STEPS = 1_500  # 10 epochs of 10K images, batch 64
LIMITS = dict(sram=50 * 1024, flash=136 * 1024)
SPACES = dict(setting.CIFAR, resolutions=(16, 32), widths=(0.5, 1.0, 1.5))
BOARD = dict(board='stm32f746', code=48 * 1024)  # what MobileNetV2's code takes is 41,438 bytes
WIDER = 2.0, 3.0, 4.0  # width multipliers
PLACES = dict(  # resolution and width by 'choose'; 6.2, 0.3, 44 M multiply-accumulates on average
  best=(32, 1.5), worst=(16, 0.5), board=(32, 4.0),
)  # fmt: skip
INSTRUCTIONS = 8_000_000
MACS = 3_200_000  # three quarters of the smaller space's networks within LIMITS take less
MOBILENET = dict(name='mobilenetv2', width=0.2, strides=(1, 1, 2, 2, 2, 1, 1, 1), head=0)
VARIANTS = ('rank', 'order', 'finalists', 'choose', 'best', 'worst', 'board', 'fast', 'reward',
            'small', 'quick')  # fmt: skip


def get_config(variant: str = ''):
  """variant: of VARIANTS, joined by a comma."""
  chosen = split(variant, VARIANTS)
  quick, small = 'quick' in chosen, 'small' in chosen
  steps, batch = (SMALL_STEPS, 64) if small else (STEPS, 128)
  steps, every = (20, 10) if quick else (steps, 500)
  on_board = 'board' in chosen
  side, width = next((at for name, at in PLACES.items() if name in chosen), (32, 1.0))
  side = side // 2 if small else side
  wanted = setting.FEW if chosen & {'order', 'finalists'} else setting.CIFAR
  space = dict(wanted, resolutions=(side,), widths=(width,))
  data = dict(name='cifar10', validation=2_000 if small else 5_000, augment='flip_and_crop',
              side=side, examples=10_000 if small else 0)  # fmt: skip
  c = setting.begin('Search on CIFAR-10 for an STM32F746', data, space, steps, every)
  c.supernet.batch = batch
  train = dict(steps=steps, batch=batch, every=every, optimizer=setting.adam(3e-3, steps))
  share = 4 if small else 1
  memory = dict(LIMITS, sram=LIMITS['sram'] // share)
  find = dict(space=space, picojoules=energy.ON_CHIP, table='m7')
  find.update(BOARD if on_board else memory)
  final = dict(train, space=space, limits=dict(memory, macs=MACS // share), networks=4)
  if small:
    for searching in find, final:
      searching.update(population=20, generations=8)
  if chosen & {'best', 'worst'}:
    find.update(beside=False)
  if 'fast' in chosen:
    find.update(instructions=INSTRUCTIONS)
  if 'reward' in chosen:
    find.update(reward=dict(cost='instructions', target=float(INSTRUCTIONS), how='soft'))
  mobilenet = dict(MOBILENET, width=0.7) if on_board else MOBILENET
  chip = dict(stage='microcontroller', board='stm32f746')
  parts = dict(
    supernet=c.supernet, specialize=find, train=dict(train, stage='tune'), in_c=chip,
    afresh=dict(train, stage='tune', afresh=True),
    mobilenet=dict(train, stage='distill', student=mobilenet, soft=0.0, hard=1.0),
    mobilenet_in_c=chip, versus=dict(of='train', base='mobilenet'),
    architecture=dict(stage='versus', of='afresh', base='mobilenet'),
    rank=dict(train, space=space, networks=24),
    finalists=final, tinynas=_choosing(small, on_board),
  )  # fmt: skip
  c.stages = ('supernet', 'specialize', 'train', 'in_c')
  if not chosen & {'best', 'worst', 'fast', 'reward'}:
    c.stages = ('mobilenet', 'mobilenet_in_c', *c.stages, 'versus', 'afresh', 'architecture')
  if 'rank' in chosen:
    at = c.stages.index('supernet') + 1
    c.stages = (*c.stages[:at], 'rank', *c.stages[at:])
  for alone, judged in dict(order='rank', finalists='finalists').items():
    if alone in chosen:
      c.stages = ('supernet', judged)
  if 'choose' in chosen:
    c.stages = ('tinynas',)
    del c['supernet']
  c.update({name: parts[name] for name in c.stages})
  if quick:
    _quick(c)
  if 'best' in chosen and not quick:
    c.paper = _against(f'mcunet/cifar:{variant.replace("best", "worst")}')
  c.tables = _tables(mobilenet['width'])
  return c


def _quick(c):
  c.seeds = (0,)
  small = dict(setting.CIFAR, stages=((8, 8, (1, 2)),), kernels=(1, 3), stem=(8, 3, 2),
               resolutions=(c.data.side,))  # fmt: skip
  changes = dict(
    supernet=dict(space=small, random=0, batch=50), train=dict(batch=50),
    specialize=dict(space=small, population=3, generations=1, beside=False),
    rank=dict(space=small, networks=3, batch=50),
    finalists=dict(space=small, networks=2, population=3, generations=1, batch=50),
    mobilenet=dict(batch=50, student=dict(MOBILENET, strides=(2, 2), stages=((2, 40, 1),))),
  )  # fmt: skip
  for name in set(changes) & set(c.stages):
    c[name].update(changes[name])
  if 'specialize' in c.stages:
    c.specialize = {k: v for k, v in c.specialize.items() if k not in ('instructions', 'reward')}


def _choosing(small: bool, on_board: bool) -> dict:
  """The spaces in TinyNAS's order."""
  space = dict(SPACES, widths=WIDER) if on_board else SPACES
  if small:
    space = dict(space, resolutions=tuple(r // 2 for r in space['resolutions']))
  memory = dict(boards=(), budgets=((12.5 if small else 50,), (136,)))
  if on_board:
    memory = dict(boards=(BOARD['board'],), code=BOARD['code'])
  return dict(memory, space=space, samples=1_000, attempts=20_000)


def _against(worst: str) -> dict:
  """The network of the best space, trained, against that of the run `worst`."""
  measure = dict(kind='tune', at='train', key='test_accuracy', how='difference',
                 against=dict(run=worst))  # fmt: skip
  paper = '78.7 against 74.2 % (ImageNet)'
  return dict(spaces=dict(claim='the best space against the worst', paper=paper, measure=measure))


def _tables(mobilenet: float) -> dict:
  beside = f'MobileNetV2 at {mobilenet}'
  board = setting.trained(in_c='the network found', mobilenet_in_c=beside)
  return dict(
    a_rank=setting.agreement(), a_trained=_finalists(), b_found=setting.found(), c_board=board,
    d_spaces=_spaces(), e_versus=setting.compared(),
  )  # fmt: skip


def _spaces():
  return dict(
    title='Spaces by mean multiply-accumulates of the networks that fit', kind='choice',
    rows='budget', values=('resolution', 'width', 'mean_macs', 'second', 'second_of_best',
                           'worst_of_best'),
  )  # fmt: skip


def _finalists():
  return dict(
    title='The best of four networks that each search trained', kind='finalist', rows='method',
    values=('validation_accuracy', 'test_accuracy', 'macs', 'sram', 'flash', 'energy_uj'),
    names=dict(method=dict(scored='random, by the supernet'), energy_uj='energy (estimated, µJ)',
               sram='SRAM', flash='Flash'),
    note='Trained from newly drawn weights; the best of each by validation images.',
  )  # fmt: skip


def sweep():
  """Search beside MobileNetV2, ranks, best and worst space, instructions; one line a seed."""
  yield {'variant': 'choose'}
  for variant in 'rank', 'order', 'finalists', 'best', 'worst', 'board', 'fast', 'reward':
    for seed in range(3):
      yield {'variant': variant, 'seeds': (seed,)}
