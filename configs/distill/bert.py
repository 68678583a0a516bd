"""A small BERT in two or four layers: DistilBERT, BERT-PKD, TinyBERT beside plain soft targets.

Expected, on GLUE's SST-2 from BERT-base (Jiao et al. 2020, table 1, four layers; six for
DistilBERT in its own paper): BERT-base 93.4 %, DistilBERT 91.4, BERT-PKD 89.4, TinyBERT 92.6.
These are other sentences (67 thousand phrases), a larger teacher and pretrained students: shapes to
compare, not numbers to reach.

    python -m launch.run --config=configs/distill/bert.py:teacher --workdir=runs/bert-teacher
    python -m launch.run --config=configs/distill/bert.py --workdir=runs/bert
    python -m launch.run --config=configs/distill/bert.py:four --workdir=runs/bert-four

The teacher is all-MiniLM-L6-v2, six layers of 384, tuned on the 6,920 whole sentences; where to get
it is said where it is missing. Students of one teacher, three seeds of data order and dropout:
'hard' and 'soft' start from the teacher's first layers, as BERT-PKD's does; DistilBERT's from every
second or third one, and learns labels in place of masked words, for it is distilled on the task
alone; TinyBERT's starts from the same layers as PKD's for want of a pretrained one, learns hidden
layers first, then logits at T = 1, without its augmented sentences. Weights are the authors', T = 2
for the soft targets of all but TinyBERT. Variants: 'teacher' tunes the teacher; 'four' layers;
'attention' is one student, of soft targets and TinyBERT's loss of attention alone; 'quick' is a
teacher of two layers and its student of one in one run, a minute.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.variants import split

MODEL = 'all-MiniLM-L6-v2'
SIZES = dict(width=384, heads=12, inner=1_536, vocabulary=30_522, positions=512)
TAUGHT_BY = 'runs/bert-teacher'  # the workdir of the variant 'teacher'
BATCH = 32
EPOCH = 6_920 // BATCH  # steps
SEEDS = (0, 1, 2)
EVERY_OTHER = {2: (0, 3), 4: (0, 2, 3, 5), 1: (0,)}  # layers that DistilBERT's student starts from
SKIP = {2: (2,), 4: (0, 2, 3), 1: (1,)}  # layers that PKD's first ones look at: all but the last
EVENLY = {2: (2, 5), 4: (1, 2, 4, 5), 1: (1,)}  # layers that TinyBERT's look at, to the last


def get_config(variant: str = ''):
  """variant: '', 'teacher', 'four', 'attention' or 'quick'."""
  chosen = split(variant, ('teacher', 'four', 'attention', 'quick'))
  quick = 'quick' in chosen
  c = config_dict.ConfigDict()
  layers = 1 if quick else 4 if 'four' in chosen else 2
  c.title = f'BERT in {layers} layers: SST-2'
  c.seeds = SEEDS[:1] if quick else SEEDS
  c.data = dict(name='sst2', tokenizer=MODEL, length=48)
  c.model = dict(SIZES, name='bert', layers=2 if quick else 6)
  epochs = 0.1 if quick else 3
  teacher = dict(
    pretrained=dict(path=MODEL), teacher=dict(training(epochs, 5e-5), stage='tune', best=True)
  )
  student = dict(SIZES, name='bert', layers=layers)
  parts = students(student, 'teacher' if quick else TAUGHT_BY, epochs)
  attention = parts.pop('attention')
  c.paper = claims()
  if quick:
    parts = dict(teacher, distilbert=parts['distilbert'])
    c.paper = {}
  elif 'teacher' in chosen:
    c.title = 'BERT of 6 layers: SST-2'
    c.seeds = SEEDS[:1]
    parts = teacher
    c.paper = lines(D30=('the teacher', '93.4 %', accuracy('teacher', 'tune', how='value')))
  elif 'attention' in chosen:
    c.title = f'BERT in {layers} layers, by attention: SST-2'
    parts = dict(attention=attention)
    c.paper = attended()
  c.stages = tuple(parts)
  for name, settings in parts.items():
    c[name] = settings
  return c


def training(epochs: float, rate: float):
  """AdamW with a short warmup and a cosine."""
  steps = int(epochs * EPOCH)
  adam = dict(name='adamw', learning_rate=rate, weight_decay=0.01)
  return dict(
    steps=steps, batch=BATCH, every=steps // 3, optimizer=dict(adam, warmup=steps // 10,
    cosine=steps),
  )  # fmt: skip


def students(model: dict, teacher: str, epochs: float):
  """Name -> settings of each student; 'tinybert' goes on from where 'tinybert_layers' came."""
  layers = model['layers']
  named = lambda where, numbers: {f'{where}{i}': f'{where}{n}' for i, n in enumerate(numbers)}
  pairs = lambda numbers, part, loss: tuple(
    dict(student=f'{one}/{part}', teacher=f'{other}/{part}', loss=loss)
    for one, other in named('layer', numbers).items()
  )
  first = dict(of=teacher, fresh=('out',))
  student = dict(
    training(epochs, 1e-4), stage='distill', student=model, inherits=first, best=True, hard=1.0
  )
  soft = dict(student, teachers=(teacher,), temperature=2.0)
  last = (dict(student=f'layer{layers - 1}/states', teacher=f'layer{EVENLY[layers][-1]}/states',
               loss='cosine'),)  # fmt: skip
  embedded = (dict(student='embeddings/states', teacher='embeddings/states', loss='tinybert'),)
  apart = dict(first, layers=named('layer', EVERY_OTHER[layers]))
  evenly = EVENLY[layers]
  attention = pairs(evenly, 'attention/scores', 'attention_scores')
  hidden = pairs(evenly, 'states', 'tinybert') + attention
  tiny = dict(soft, hard=0.0, temperature=1.0, best=False)
  going_on = {k: v for k, v in tiny.items() if k not in ('student', 'inherits')}
  return {
    'hard': dict(student, soft=0.0),
    'soft': soft,
    'distilbert': dict(soft, inherits=apart, soft=5.0, hard=2.0, matches=last),
    'pkd': dict(soft, matches=pairs(SKIP[layers], 'first', 'patient')),
    'tinybert_layers': dict(tiny, soft=0.0, matches=embedded + hidden),
    'tinybert': dict(going_on, best=True),
    'attention': dict(soft, matches=attention),
  }


def accuracy(stage: str, kind: str = 'distill', **how):
  """A claim's measure."""
  return dict(kind=kind, stage=stage, key='test_accuracy', **how)


def claims():
  """Accuracy of each, and against plain soft targets."""
  against = dict(how='difference', against=dict(stage='soft'))
  return lines(
    D31=('hard labels', 'not in the papers', accuracy('hard', how='value')),
    D32=('soft targets', 'not in the papers', accuracy('soft', how='value')),
    D33=('DistilBERT', '91.4 %', accuracy('distilbert', how='value')),
    D34=('BERT-PKD', '89.4 %', accuracy('pkd', how='value')),
    D35=('TinyBERT', '92.6 %', accuracy('tinybert', how='value')),
    D36=('soft targets against hard labels', '', dict(
      accuracy('hard', how='difference'), stage='soft', against=dict(stage='hard'))),
    D37=('DistilBERT against soft targets', '', accuracy('distilbert', **against)),
    D38=('BERT-PKD against soft targets', '+', accuracy('pkd', **against)),
    D39=('TinyBERT against soft targets', '+', accuracy('tinybert', **against)),
  )  # fmt: skip


def attended():
  """Against plain soft targets, of the run of both."""
  soft = dict(run='distill/bert', stage='soft')
  return lines(
    D39b=('attention', 'not in the papers', accuracy('attention', how='value')),
    D39c=('attention against soft targets', '', accuracy(
      'attention', how='difference', against=soft)),
  )  # fmt: skip


def sweep():
  """The teacher, then both depths and attention alone, a line a seed."""
  yield {'variant': 'teacher'}
  for variant in '', 'four', 'attention':
    for seed in SEEDS:
      yield {'variant': variant, 'seeds': (seed,)}
