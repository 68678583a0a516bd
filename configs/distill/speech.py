"""Ten acoustic models in one: Hinton, Vinyals & Dean 2015, section 4, on spoken digits.

Expected (8 layers of 2,560 units, 14,000 states, 2,000 hours): frame accuracy 58.9 % for one model,
61.1 for ten, 60.8 for the student of the ten: 86 % of the gain kept; word errors 10.9, 10.7 and
10.7 %. T was one of 1, 2, 5 and 10, the hard labels weighed 0.5.

    python -m launch.run --config=configs/distill/speech.py --workdir=runs/distill-speech

Here: 3,000 recordings of ten digits by six speakers, the states of an alignment (97 of them), three
folds that leave two speakers out, one a run: --config.data.fold=1. Ten seeds of one model, their
ensemble, and ten students of the ensemble; word errors by Viterbi search over models of the ten
words. The share that students keep is claimed only where the ensemble gains more than its
bootstrapped interval. Variants: 'longer' gives students three times the steps and no dropout, which
is where those of the other fall short; 'quick' is two seeds of narrow models, two minutes.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.variants import split

BATCH = 200
EPOCHS = 8
STEPS = EPOCHS * (79_000 // BATCH)  # frames of four speakers' training recordings
LONGER = 3
CLASSES = 97  # states of the alignment


def get_config(variant: str = ''):
  """variant: of 'longer' and 'quick', joined by a comma."""
  chosen = split(variant, ('longer', 'quick'))
  quick = 'quick' in chosen
  c = config_dict.ConfigDict()
  c.title = 'Ten acoustic models in one: spoken digits'
  c.seeds = tuple(range(2 if quick else 10))
  c.data = dict(name='spoken_digits', fold=0)
  width = 64 if quick else 512
  c.model = dict(name='mlp', widths=(width,) * 3, classes=CLASSES, dropout=0.2)
  steps = 200 if quick else STEPS
  training = dict(
    steps=steps, batch=BATCH, every=steps // 8,
    optimizer=dict(name='adam', learning_rate=5e-4, cosine=steps),
  )  # fmt: skip
  c.stages = ('members', 'student', 'gain')
  c.members = dict(training, stage='tune')
  c.student = dict(
    training, stage='distill', student=c.model.to_dict(), teachers=('members',), members='all',
    temperature=2.0, soft=0.5, hard=0.5,
  )  # fmt: skip
  if 'longer' in chosen:
    c.title = 'Ten acoustic models in one that learns longer: spoken digits'
    c.student.update(steps=LONGER * steps, every=LONGER * steps // 8)
    c.student.optimizer.cosine = LONGER * steps
    c.student.student.dropout = 0.0
  c.gain = dict(single='members', student='student')
  system = lambda net, key: dict(kind='system', net=net, key=key, how='value')
  bootstrap = lambda key: dict(kind='gain', key=key, how='bootstrap')
  c.paper = lines(
    D20=('frames right, one model', '58.9 %', system('single', 'test_accuracy')),
    D21=('frames right, ensemble', '61.1 %', system('ensemble', 'test_accuracy')),
    D22=('frames right, student', '60.8 %', system('student', 'test_accuracy')),
    D23=('gain of the ensemble', '+2.2 pp', bootstrap('ensemble_gain')),
    D24=('gain of the student', '+1.9 pp', bootstrap('student_gain')),
    D25=('share of the gain kept', '86 %', bootstrap('kept')),
    D26=('word errors, one model', '10.9 %', system('single', 'word_error')),
    D27=('word errors, ensemble', '10.7 %', system('ensemble', 'word_error')),
    D28=('word errors, student', '10.7 %', system('student', 'word_error')),
  )  # fmt: skip
  return c


def sweep():
  """The three folds."""
  for variant in '', 'longer':
    for fold in range(3):
      yield {'variant': variant, 'data.fold': fold}
