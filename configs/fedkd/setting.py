"""What the experiments of FedKD have in common: clients, methods and ablations, tables."""

FACTORS = dict(name='low_rank', start=0.95, end=0.98)
DENSE = dict(name='dense')
TABLE = ('large', 'fedavg', 'fedkd', 'whole', 'alone')  # of `methods`, for models that take long


def federation(*, rounds: int, batch: int, epochs: float, alpha: float = 0.0, clients: int = 4):
  """Equal shares of the data, or by Dirichlet(alpha) of the labels."""
  how = dict(name='dirichlet', alpha=alpha) if alpha else dict(name='iid')
  return dict(
    rounds=rounds, batch=batch, epochs=epochs, partition=dict(how, clients=clients),
    codec=DENSE, rules=dict(combine='mean', weights='examples'),
  )  # fmt: skip


def methods(given: dict, teacher: dict, student: dict, pairs: tuple, optimizer: dict):
  """Name -> settings of a stage: both models by FedAvg, FedKD, and what it is made of."""
  average = dict(stage='fedavg', federation=given, optimizer=optimizer)
  small = dict(average, student=student)
  lesson = dict(pairs=pairs, adaptive=True, weight=1.0)
  kd = dict(
    stage='fedkd', federation=dict(given, codec=FACTORS), teachers=(teacher,), student=student,
    optimizer=optimizer, lesson=lesson,
  )  # fmt: skip
  lessons = dict(
    without_hidden=dict(lesson, pairs=()), fixed=dict(lesson, adaptive=False),
    alone=dict(lesson, weight=0.0), authors=dict(lesson, pairs=(), authors_code=True),
  )  # fmt: skip
  return {
    'large': dict(average, student=teacher),
    'fedavg': small,
    'fedkd': kd,
    'whole': dict(kd, federation=given),
    'still': dict(kd, federation=dict(given, codec=dict(FACTORS, end=0.95))),
    **{name: dict(kd, lesson=other) for name, other in lessons.items()},
  }


NAMES = dict(
  large='FedAvg of the large model', fedavg='FedAvg of the student', fedkd='FedKD',
  distilbert='FedAvg of DistilBERT', pkd='FedAvg of BERT-PKD', tinybert='FedAvg of TinyBERT',
  whole='FedKD, updates whole', still='FedKD, T = 0.95', without_hidden='FedKD, logits alone',
  fixed='FedKD, not adaptive', alone='no distillation', authors="FedKD, authors' joint loss",
)  # fmt: skip


def tables(*scores: str):
  """Scores and bytes by method."""
  return dict(
    methods=dict(
      title='Methods', kind='federated', where={}, rows='stage',
      values=(*(scores or ('test_accuracy',)), 'teacher_accuracy', 'up_bytes', 'down_bytes'),
      names=dict(stage=NAMES),
      note='Bytes a client over all rounds. Teachers: mean over clients, all test data.',
    ),
  )  # fmt: skip
