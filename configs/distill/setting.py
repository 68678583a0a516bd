"""What the MNIST experiments of Hinton, Vinyals & Dean 2015, section 3, have in common."""

BATCH = 100
EPOCH = 60_000 // BATCH  # steps; all training images, none held out
TEACHER = dict(name='mlp', widths=(1200, 1200), dropout=0.5, input_dropout=0.2)
STUDENT = dict(name='mlp', widths=(800, 800))  # no dropout, no jitter
TAUGHT_BY = ('runs/distill-teacher',)  # the workdir of configs/distill/teacher.py
SEEDS = (0, 1, 2)


def training(steps: int, every: int, **optimizer):
  """Steps of a batch with a learning rate that falls along a cosine."""
  return dict(steps=steps, batch=BATCH, every=every, optimizer=dict(optimizer, cosine=steps))


def teaching(epochs: int):
  """How teachers train: weights into a unit no longer than sqrt(15) (Hinton et al. 2012)."""
  adam = dict(name='adam', learning_rate=1e-3, max_norm=3.87)
  return dict(training(epochs * EPOCH, EPOCH, **adam), augment='jitter')


def learning(steps: int, every: int):
  """How students train."""
  return training(steps, every, name='adam', learning_rate=1e-3)


def errors(stage: str, against: str | None = None, kind: str = 'distill', key='test_errors'):
  """A claim's measure: the test errors of a stage, or how many more they are than another's."""
  measure = dict(kind=kind, stage=stage, key=key)
  if against is None:
    return dict(measure, how='value')
  return dict(measure, how='difference', against=dict(stage=against))
