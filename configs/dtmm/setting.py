"""What the experiments of DTMM share: the methods, their levels, and the picture of all."""

METHODS = ('filterlet', 'paired', 'filter', 'weight', 'pattern', '2:4')
TITLES = dict(
  filterlet='filterlets', paired='filterlets of filter pairs', filter='filters',
  weight='single weights', pattern='patterns of kernels',
)  # fmt: skip
TITLES['2:4'] = 'N of 4 weights'
SHARES = {'pattern': (5 / 9, 4 / 9, 3 / 9, 2 / 9), '2:4': (0.75, 0.5, 0.25)}


def stage(structure: str, levels: tuple, **training) -> dict:
  """A stage that prunes what 'train' returned; patterns and rows have levels of their own."""
  return dict(
    stage='filterlet', of='train', structure=structure, levels=SHARES.get(structure, levels),
    **training,
  )  # fmt: skip


def name(structure: str) -> str:
  """A stage's name: '2:4' -> 'n_of_m'."""
  return 'n_of_m' if ':' in structure else structure


def add(c, methods: tuple, levels: tuple, *, data: str, **training):
  """The stages of methods, each from the same trained net, behind those that c has; all of them on
  one picture, and in a table."""
  for method in methods:
    c[name(method)] = stage(method, levels, **training)
  c.stages = (*c.stages, *map(name, methods))
  c.figures = dict(methods=figure(data))
  c.tables = dict(methods=table())


def seeds():
  """The picture and the scheduler, a line a seed."""
  for variant in '', 'schedule':
    for seed in (0, 1, 2):
      yield {'variant': variant, 'seeds': (seed,)}


def figure(data: str) -> dict:
  """Accuracy against the bytes of all convolutions' weights, all methods on one picture."""
  return dict(
    title=f'Accuracy against bytes: {data}',
    caption='Each level prunes the one before and trains on. Bytes: int8 weights of convolutions, '
    'each in the best form of its structure.',
    kind='filterlet',
    x='conv_bytes',
    x_scale='log',
    x_label='bytes of convolutions',
    y='test_accuracy',
    lines='structure',
    where=dict(structure=METHODS),
    names=TITLES,
  )


def table() -> dict:
  """The same in numbers, a line a method and share."""
  return dict(
    title='Accuracy and bytes at each share of the weights kept', kind='filterlet',
    rows=('structure', 'share'), values=('kept', 'conv_bytes', 'test_accuracy'),
    where=dict(structure=METHODS), names=dict(structure=TITLES),
  )  # fmt: skip
