"""What the experiments of DTMM share: the methods, their levels, and the picture of all."""

# Stage -> structure and scope, in the order of legends. What competes over all layers by its scores
# starves some: shares of each layer's scores do not, nor does a share of each layer.
METHODS = dict(
  filterlet_normal=('filterlet', 'normalized'), filterlet=('filterlet', 'global'),
  filterlet_layer=('filterlet', 'layer'), paired=('paired', 'global'),
  filter_normal=('filter', 'normalized'), filter=('filter', 'global'),
  filter_layer=('filter', 'layer'), weight=('weight', 'global'), pattern=('pattern', 'global'),
  n_of_m=('2:4', 'global'),
)  # fmt: skip
OURS = 'filterlet_normal'
FEW = tuple(name for name in METHODS if name not in ('paired', 'pattern', 'n_of_m'))
TITLES = dict(
  filterlet_normal='filterlets, normalized', filterlet='filterlets',
  filterlet_layer='filterlets by layer', paired='filterlets of filter pairs',
  filter_normal='filters, normalized', filter='filters', filter_layer='filters by layer',
  weight='single weights', pattern='patterns of kernels', n_of_m='N of 4 weights',
  plain='without a teacher', taught='with a teacher', tickets='tickets',
)  # fmt: skip
TITLES |= {'tickets/reinit': 'the same masks, fresh weights', 'weight:csr': 'single weights in CSR'}
LEVELS = tuple(range(9))  # of a table, which leaves out the whole net, in which all lines begin
TEACHER = dict(of='train', temperature=4.0, soft=0.5, hard=0.5)  # the net before it was pruned
NAMES = dict(cifar10='CIFAR-10', visual_wake_words='visual wake words')
SHARES = dict(pattern=(5 / 9, 4 / 9, 3 / 9, 2 / 9), n_of_m=(0.75, 0.5, 0.25))


def shares(method: str, levels: tuple) -> tuple:
  """What a method's levels are: patterns and rows have their own, and a share of each layer's
  filters keeps about its square of the weights."""
  if method == 'filter_layer':
    return tuple(round(share**0.5, 4) for share in levels)
  return SHARES.get(method, levels)


def stage(method: str, levels: tuple, **training) -> dict:
  """A stage that prunes what 'train' returned."""
  structure, scope = METHODS[method]
  return dict(
    stage='filterlet', of='train', structure=structure, scope=scope,
    levels=shares(method, levels), **training,
  )  # fmt: skip


def add(c, methods: tuple, levels: tuple, *, data: str, **training):
  """The stages of methods, each from the same trained net, behind those that c has; all of them on
  one picture and in a table, and OURS against each of the others."""
  for method in methods:
    c[method] = stage(method, levels, **training)
  c.stages = (*c.stages, *methods)
  c.figures = dict(methods=figure(data))
  c.tables = dict(methods=table())
  if len(methods) > 1:
    against(c, OURS, (*(m for m in methods if m != OURS), 'weight:csr'))


def finish(
  c, variants: set, levels: tuple, *, losses: tuple, limits: dict, methods: tuple = tuple(METHODS),
  **training,
):  # fmt: skip
  """What variants ask of a config whose net is trained by 'train'; training: after each level."""
  quick, full = 'quick' in variants, c.train.to_dict()
  levels = levels[1:2] if quick else levels
  if 'wake' in variants:
    wake(c)
  if 'lottery' in variants:
    anew = dict(training, steps=full['steps'], optimizer=full['optimizer'])
    tickets(c, levels, data=c.data.name, **anew)
  elif 'taught' in variants:
    lesson(c, levels, data=c.data.name, **training)
  elif 'schedule' in variants:
    tolerance = 1.0 if quick else 0.02
    scheduled(c, losses, board='mps2', tolerance=tolerance, **limits, **training)
  else:
    methods = (OURS,) if quick else methods
    add(c, methods, levels, data=c.data.name, **training)


def wake(c):
  """Visual wake words in place of CIFAR-10: 64 x 64 pixels as in the paper, a person or none."""
  c.title = c.title.replace('CIFAR-10 (JPEG)', 'CIFAR-10').replace('CIFAR-10', 'visual wake words')
  c.data = dict(name='visual_wake_words', side=64, validation=5_000, augment='flip_and_crop')
  c.model.classes = 2


def tickets(c, levels: tuple, *, data: str, steps: int, **training):
  """Whether filterlet tickets win: each level trains in full, from the first weights and fresh."""
  c.tickets = stage(OURS, levels, start='rewind', control=True, steps=steps, **training)
  c.stages = (*c.stages, 'tickets')
  names = dict(rewind='tickets', reinit='the same masks, fresh weights')
  where = dict(start=('rewind', 'reinit'))
  c.figures = dict(tickets=dict(figure(data), lines='start', where=where, names=names))
  where = dict(where, level=LEVELS)
  c.tables = dict(tickets=dict(table(), rows=('start', 'share'), where=where,
                               names=dict(start=names)))  # fmt: skip
  against(c, 'tickets', ('tickets/reinit',))


def lesson(c, levels: tuple, *, data: str, **training):
  """Whether it helps if the net that came teaches while it is pruned."""
  c.plain = stage(OURS, levels, **training)
  c.taught = stage(OURS, levels, teacher=TEACHER, **training)
  c.stages = (*c.stages, 'plain', 'taught')
  where = dict(stage=('plain', 'taught'))
  c.figures = dict(taught=dict(figure(data), lines='stage', where=where, names={}))
  where = dict(where, level=LEVELS)
  c.tables = dict(methods=dict(table(), rows=('stage', 'share'), where=where, names={}))
  against(c, 'taught', ('plain',))


def scheduled(c, losses: tuple, *, board: str, flash: int, ram: int, tolerance: float, **training):
  """The trained net on a board, or why not; the scheduler's choice; that on the board."""
  chip = dict(stage='microcontroller', board=board, images=256)
  c.before = dict(chip, must_fit=False)
  c.schedule = dict(losses=losses, flash=flash, ram=ram, tolerance=tolerance, **training)
  c.deploy = dict(chip, sparse='instructions', ram=ram)
  c.stages = (*c.stages, 'before', 'schedule', 'deploy')
  c.tables = dict(
    a=dict(title='The scheduler', kind='schedule', rows='loss',
           values=('kept', 'predicted_bytes', 'predicted_instructions', 'test_accuracy'),
           names=dict(predicted_bytes='bytes of constants',
                      loss='{} of importance may go')),
    b=dict(title=f'On a {board}', kind='microcontroller', rows='stage',
           values=('constants', 'arena', 'flash', 'ram', 'instructions', 'float_accuracy',
                   'int8_accuracy'),
           note='Without instructions: it was refused, as its row says.',
           where=dict(stage=('before', 'deploy')), names=dict(stage=dict(
             before='as it was trained', deploy='as the scheduler chose'))),
  )  # fmt: skip


def against(c, of: str, bases: tuple):
  """The comparison at equal bytes and at equal accuracy, and its table."""
  c.rivals = dict(of=of, bases=bases)
  c.stages = (*c.stages, 'rivals')
  c.tables.rivals = dict(
    title=f'{TITLES[of].capitalize()}: at equal bytes, and at equal accuracy', kind='rival',
    rows=('base', 'share'), values=('accuracy_gain', 'bytes_change'),
    names=dict(base=TITLES, accuracy_gain='accuracy at equal bytes (points)',
               bytes_change='bytes where as accurate'),
    note='Against each level of what is named: 95 % intervals over seeds and test examples, drawn '
    'for both alike. Equal: at most 2 % more. No entry: no level is as small, or as accurate.',
  )  # fmt: skip


def seeds():
  """The picture, the tickets, the teacher and the scheduler, a line a seed."""
  for variant in '', 'lottery', 'taught', 'schedule':
    for seed in (0, 1, 2):
      yield {'variant': variant, 'seeds': (seed,)}


def figure(data: str) -> dict:
  """Accuracy against bytes, instructions and RAM, all methods on one picture."""
  return dict(
    title=f'Accuracy against what a net costs: {NAMES.get(data, data)}',
    caption='Lines begin at the whole net; each level prunes the one before and trains on. Bytes: '
    'int8 weights of convolutions, each in the least form of its structure. Instructions of a '
    'Cortex-M4: by a table of measured ones, each in its fastest form, whose arena the RAM is.',
    kind='filterlet', y='test_accuracy', lines='stage', where=dict(stage=tuple(METHODS)),
    names=TITLES,
    panels=dict(
      a=dict(x='conv_bytes', x_label='bytes of convolutions', x_scale='log'),
      b=dict(x='instructions', x_label='instructions'),
      c=dict(x='ram', x_label='bytes of RAM'),
    ),
  )  # fmt: skip


def table() -> dict:
  """The same in numbers, a line a method and share."""
  return dict(
    title='Accuracy and bytes at each share of the weights kept', kind='filterlet',
    rows=('stage', 'share'),
    values=('kept', 'conv_bytes', 'instructions', 'ram', 'test_accuracy'),
    where=dict(stage=tuple(METHODS), level=LEVELS), names=dict(stage=TITLES),
    note='Ranked over all layers where not said otherwise, normalized: by shares of the importance '
    'of each. Bytes of convolutions in the least form of each structure; instructions of a '
    'Cortex-M4, by a table of measured ones, in the fastest, and the bytes of RAM that those need.',
  )  # fmt: skip
