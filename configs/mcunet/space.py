"""TinyNAS, first stage: a search space for each board. Lin et al., NeurIPS 2020, section 3.1.

12 resolutions (48 to 224) x 9 width multipliers (0.2 to 1.0); of each space 1,000 networks that fit
a board; the space with the most multiply-accumulates on average is taken (figure 4: distributions).
Released models have 160 x 0.5 for 256 KB of SRAM and 1 MB of Flash (STM32F412), 176 x 0.5 for 320
KB and 1 MB (F746), 160 x 1.0 for 512 KB and 2 MB (H743); none is for 512 KB and 1 MB (F765).
Expected over budgets: more SRAM, higher resolution; more Flash, wider.

Found (results/space.jsonl): 192 x 0.5, 224 x 0.5, 208 x 0.7 (for F765) and 208 x 1.0: the authors'
widths at higher resolutions, because the same network takes 30 % less SRAM in this engine. Over 16
budgets the width never falls with more Flash, and the resolution falls with more SRAM once, where
the width rises for it (512 KB of SRAM, 1 MB of Flash). As the authors' engine counts memory, the
released space is the first for the F412, the second for the F746, the fourth for the H743
(results/space-tinyengine.jsonl). Three minutes on one core.

    python -m launch.run --config=configs/mcunet/space.py --workdir=runs/space

Exact and cheap: no network is trained, nothing is random but the sample (three seeds). Memory is
what this project's engine takes; variant 'tinyengine' counts as the authors' engine did, so that
its choices can be held beside theirs. 64 KB of Flash are kept for code. Variants: 'tinyengine',
'quick' (four spaces, 50 networks), joined by a comma.
"""

from ml_collections import config_dict

from configs.variants import split

KIB = (192, 256, 320, 512), (512, 1024, 1536, 2048)  # SRAM, Flash
RELEASED = dict(stm32f412=(160, 0.5), stm32f746=(176, 0.5), stm32h743=(160, 1.0))
BOARDS = ('stm32f412', 'stm32f746', 'stm32f765', 'stm32h743')


def get_config(variant: str = ''):
  """variant: of 'tinyengine' and 'quick', joined by a comma."""
  chosen = split(variant, ('tinyengine', 'quick'))
  c = config_dict.ConfigDict()
  memory = 'tinyengine' if 'tinyengine' in chosen else 'planner'
  c.title = f'TinyNAS: a search space for each board, memory as the {memory} has it'
  c.seeds = (0, 1, 2)
  c.data = dict(name='digits')
  c.model = dict(name='mlp', widths=(10,))  # neither is looked at
  c.stages = ('tinynas',)
  c.tinynas = dict(
    space=dict(name='mcunet'), boards=BOARDS, budgets=KIB, released=RELEASED, samples=1_000,
    attempts=100_000, code=64 * 1024, memory=memory,
  )  # fmt: skip
  if 'quick' in chosen:
    c.seeds = (0,)
    c.tinynas.update(samples=50, attempts=2_000, budgets=((256,), (1024,)))
    c.tinynas.space = dict(name='mcunet', resolutions=(96, 160), widths=(0.3, 0.5))
  c.tables = dict(
    a_boards=dict(
      title='The space of each board', kind='choice', rows='budget', where=dict(budget=BOARDS),
      values=('candidates', 'resolution', 'width', 'mean_macs', 'second_of_best', 'worst',
              'worst_of_best', 'rare_of_best', 'released', 'released_rank', 'released_of_best'),
      names=dict(released='the released', released_rank='rank of the released',
                 second_of_best='second best of best', worst_of_best='worst of best',
                 released_of_best='released of best', rare_of_best='rarest of best'),
      note='Of best: mean multiply-accumulates over those of the best space. Candidates: spaces of '
           'which at least a hundredth of the networks fit; rarest: the largest mean among others.',
    ),
    b_resolution=_grid('resolution', 'Resolution by budget'),
    c_width=_grid('width', 'Width multiplier by budget'),
    d_macs=_grid('mean_macs', 'Mean multiply-accumulates of the best space by budget'),
    d_rare=_grid('rare_of_best', "The largest mean of spaces passed over, of the best one's"),
    e_cdf=dict(
      title='Figure 4 in numbers: multiply-accumulates (millions) of networks that fit',
      kind='cdf', rows=('budget', 'space'), columns='quantile', values='macs',
      where=dict(budget=BOARDS, quantile=(0.05, 0.25, 0.5, 0.75, 0.95)),
      names=dict(quantile='quantile {}'),
      note='Six spaces of each board, resolution x width, from the first in rank to the last.',
    ),
  )  # fmt: skip
  panels = {name: dict(where=dict(budget=name), title=name) for name in BOARDS}
  c.figures = dict(
    cdf=dict(
      title='Figure 4: multiply-accumulates of networks that fit, by space', kind='cdf', x='macs',
      y='quantile', lines='space', spread='none', x_label='multiply-accumulates (millions)',
      y_label='share of networks', panels=panels,
      caption='Six spaces of each board, resolution x width, from the first in rank to the last.',
    )
  )  # fmt: skip
  return c


def _grid(value: str, title: str) -> dict:
  return dict(
    title=title, kind='choice', rows='sram_kib', columns='flash_kib', values=value,
    where=dict(sram_kib=KIB[0], flash_kib=KIB[1]),
    names=dict(sram_kib='{} KiB SRAM', flash_kib='{} KiB Flash'),
  )  # fmt: skip


def sweep():
  """Both ways to count memory."""
  for variant in '', 'tinyengine':
    yield {'variant': variant}
