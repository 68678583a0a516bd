"""What the experiments of FedKD have in common: clients, methods and ablations, tables."""

import itertools

from configs.claims import lines

FACTORS = dict(name='low_rank', start=0.95, end=0.98)
DENSE = dict(name='dense')
BESIDE = ('teacher_accuracy', 'up_bytes', 'down_bytes', 'of_dense')  # scores
ALL = (  # methods of the paper's tables 2 and 3 that no other run has to go before
  'large', 'central', 'local', 'fedavg', 'fedprox', 'scaffold', 'fedopt', 'fedmd', 'fedkd', 'whole',
)  # fmt: skip
CODECS = 'feddropout', 'fetchsgd', 'powersgd', 'eight_bits'  # FedAvg that sends less
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
  sgd = dict(name='sgd', learning_rate=0.3)
  alone = dict(stage='fedmd', federation=dict(given, disk=False), optimizer=optimizer,
               student=student)  # fmt: skip
  coded = lambda **codec: dict(small, federation=dict(given, codec=codec))
  sketch = dict(name='sketch', rows=5, columns=400, top=100)
  one = dict(given, partition=dict(name='iid', clients=1))
  return {
    'large': dict(average, student=teacher),
    'central': dict(small, federation=one),
    'local': alone,
    'fedavg': small,
    'fedprox': dict(small, proximal=0.01),
    'scaffold': dict(small, optimizer=sgd, method='scaffold'),
    'fedopt': dict(small, server_optimizer=dict(name='adam', learning_rate=1e-2, b2=0.99)),
    'fedmd': dict(alone, public=256),
    'feddropout': dict(small, thin=0.4, feeds=feeds(student)),
    'fetchsgd': coded(**sketch, momentum=0.0),
    'momentum': coded(**sketch, momentum=0.9),
    'powersgd': coded(name='power', rank=4),
    'eight_bits': coded(name='quantized', bits=8),
    'fedkd': kd,
    'whole': dict(kd, federation=given),
    'fresh': dict(kd, fresh=True),
    'still': dict(kd, federation=dict(given, codec=dict(FACTORS, end=0.95))),
    **{name: dict(kd, lesson=other) for name, other in lessons.items()},
  }


def feeds(model: dict) -> tuple:
  """Pairs of layers of a model, of which one takes the units that FedDropout thins of the other."""
  if model['name'] == 'mlp':
    names = [f'fc{i + 1}' for i in range(len(model['widths']))]
    return tuple(itertools.pairwise((*names, 'out')))
  if model['name'] == 'bert':
    return tuple((f'layer{i}/inner', f'layer{i}/outer') for i in range(model['layers']))
  return ()


NAMES = dict(
  large='FedAvg of the large model', central='the student on all data',
  local='students alone', fedavg='FedAvg of the student', fedprox='FedProx', scaffold='SCAFFOLD',
  fedopt='FedOpt (Adam)', fedmd='FedMD', feddropout='FedDropout', fetchsgd='FetchSGD',
  momentum='FetchSGD, momentum 0.9', powersgd='PowerSGD', eight_bits='FedAvg in 8 bits',
  fedkd='FedKD',
  distilbert='FedAvg of DistilBERT', pkd='FedAvg of BERT-PKD', tinybert='FedAvg of TinyBERT',
  whole='FedKD, updates whole', fresh='FedKD, optimizers anew', still='FedKD, T = 0.95',
  without_hidden='FedKD, logits alone',
  fixed='FedKD, not adaptive', gentle='FedKD, gentle', alone='no distillation',
  authors="FedKD, authors' joint loss",
)  # fmt: skip


ABLATIONS = dict(  # figure -> (claim, the stage, the one it is compared with, the key)
  f2=('distillation, for the student', 'fedkd', 'alone', 'test_accuracy'),
  f2b=('distillation, for teachers', 'fedkd', 'alone', 'teacher_accuracy'),
  f3=('adaptive weights, for the student', 'fedkd', 'fixed', 'test_accuracy'),
  f3b=('adaptive weights, for teachers', 'fedkd', 'fixed', 'teacher_accuracy'),
  f3c=('hidden layers, for the student', 'fedkd', 'without_hidden', 'test_accuracy'),
  f5=('T to 0.98 against T = 0.95 to the end', 'fedkd', 'still', 'test_accuracy'),
  f5b=('low-rank updates against whole ones', 'fedkd', 'whole', 'test_accuracy'),
  t2=('FedKD against FedAvg of the same student', 'fedkd', 'fedavg', 'test_accuracy'),
  fresh=('optimizers anew each round, for the student', 'fresh', 'fedkd', 'test_accuracy'),
  t2b=('FedKD, optimizers anew, against FedAvg of the same student', 'fresh', 'fedavg',
       'test_accuracy'),
  joint=("the authors' joint loss against logits alone", 'authors', 'without_hidden',
         'test_accuracy'),
)  # fmt: skip
SAID = dict(f2='+', f2b='+, more than the student', f3='+', f3b='+', f3c='+', f5b='none')


def ablations(stages) -> dict:
  """Claims: what each part of FedKD is worth, paired by seed, as far as these stages tell."""
  return lines(**{
    name: (claim, SAID.get(name, 'not in the paper'), dict(
      kind='federated', at=at, key=key, how='difference', against=dict(at=base)))
    for name, (claim, at, base, key) in ABLATIONS.items() if {at, base} <= set(stages)
  })  # fmt: skip


def figures(*matrices: str):
  """The shared student by round, and the ranks of its updates."""
  stages = ('fedavg', 'fedkd', 'whole', 'still', 'alone')
  learned = dict(
    title='The shared student by round', kind='round', x='step', y='validation_accuracy',
    lines='stage', where=dict(stage=stages), names=NAMES, x_label='rounds', spread='band',
  )  # fmt: skip
  panels = {name.replace('/', '_'): dict(y=f'rank {name}') for name in matrices}
  ranks = dict(
    title='Ranks of updates by round (figure 7)', kind='round', x='step', lines='stage',
    where=dict(stage=('fedkd', 'still', 'alone')), names=NAMES, x_label='rounds', panels=panels,
    spread='band',
  )  # fmt: skip
  return dict(learned=learned, ranks=ranks)


def tables(*scores: str):
  """Scores and bytes by method, and what each matrix of FedKD's updates takes."""
  return dict(
    tensors=dict(
      title="FedKD's updates by matrix", kind='sent', rows='tensor', where=dict(stage='fedkd'),
      values=('dense_bytes', 'up_bytes', 'down_bytes', 'first_rank', 'last_rank'),
      names=dict(dense_bytes='whole, once', first_rank='rank, first round',
                 last_rank='rank, last round'),
      note='Bytes a client over all rounds. Vectors: biases and scales together, never factored.',
    ),
    methods=dict(
      title='Methods', kind='federated', rows='stage',
      values=(*(scores or ('test_accuracy',)), *BESIDE),
      names=dict(stage=NAMES),
      note='Bytes a client over all rounds; of dense: their share of what whole tensors take. '
      'Teachers: mean over clients, all test data.',
    ),
  )  # fmt: skip
