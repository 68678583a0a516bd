"""Which texts and which divergence teach a small language model: stories260K to one of a sixth.

Agarwal et al., GKD (2306.13649, ICLR 2024), and Gu et al., MiniLLM (2306.08543): a student that
learns on texts it tells itself is better at telling than one that learns on the teacher's, most so
by the reverse KL; neither paper is comparable (T5 and GPT-2 on summaries and instructions).
Expected: on its own texts a student taught on its own texts is nearer to the teacher; on the
teacher's texts the forward KL is.

    python -m launch.run --config=configs/distill/language.py --workdir=runs/language-0
    python -m launch.run --config=configs/distill/language.py --workdir=runs/language-1 \\
      --config.seeds='(1,)'

The teacher tells 2,000 stories of 48 tokens. A student of two layers of 32 learns its words for
1,000 steps of 16 stories, as the papers' are tuned first, and from there on by each way for 1,000
more, at one rate for all. Three runs, of a seed each, as a teacher from a file is one net. Text is
needed by the table before and after alone. Variant 'quick': two methods, 20 steps.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.variants import split

STUDENT = dict(
  name='llama', layers=2, width=32, heads=4, inner=86, vocabulary=512, positions=48, tied=True
)
STEPS = 1_000
METHODS = dict(  # after `first`, on the teacher's words
  words=dict(learns='words', share=0.0),
  forward=dict(learns='forward', share=0.0),
  reverse=dict(learns='reverse', share=0.0),
  jsd=dict(learns='jsd', share=0.0),
  forward_own=dict(learns='forward'),
  reverse_own=dict(learns='reverse'),
  jsd_own=dict(learns='jsd'),
  jsd_both=dict(learns='jsd', share=0.5),
)
NAMES = dict(
  first="the teacher's words, half as long", words="the teacher's words", forward='forward KL',
  reverse='reverse KL', jsd='Jensen-Shannon', forward_own='forward KL, own texts',
  reverse_own='reverse KL, own texts', jsd_own='Jensen-Shannon, own texts',
  jsd_both='Jensen-Shannon, own texts every other step',
)  # fmt: skip


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Students of stories260K, on its texts and on their own'
  c.seeds = (0,)
  c.model = dict(path='stories260k')
  c.data = dict(
    name='passages', calibration='tinyshakespeare', test='wikitext-2', examples=4, length=48,
    test_passages=4,
  )  # fmt: skip
  steps = 20 if quick else STEPS
  training = dict(
    stage='on_policy', student=STUDENT, steps=steps, batch=16, every=steps // 4,
    optimizer=dict(name='adam', learning_rate=3e-3, cosine=steps),
    texts=100 if quick else 2_000, held=100 if quick else 1_000,
  )  # fmt: skip
  methods = ('reverse_own',) if quick else tuple(METHODS)
  c.stages = ('first', *methods)
  c.first = dict(training, **METHODS['words'])
  for name in methods:
    c[name] = dict(training, begins='first', **METHODS[name])
  c.tables = dict(policies=dict(
    title='How far student and teacher are apart, nats a token', kind='policy', rows='at',
    values=('forward', 'reverse'),
    names=dict(at=NAMES, forward="KL(teacher || student) on the teacher's texts",
               reverse="KL(student || teacher) on the student's"),
    note='On 1,000 texts that nobody learned from.',
  ))  # fmt: skip
  c.paper = {} if quick else claims()
  return c


def claims():
  """Own texts against the teacher's, of each divergence, on either side; paired by seed."""
  beside = lambda key, stage, against: dict(
    kind='policy', stage=stage, key=key, how='relative', against=dict(stage=against)
  )
  return lines(
    L1=("forward KL against the teacher's words, on its texts", '-',
        beside('forward', 'forward', 'words')),
    L2=("reverse KL: own texts against the teacher's, on own", '-',
        beside('reverse', 'reverse_own', 'reverse')),
    L3=("forward KL: own texts against the teacher's, on own", '-',
        beside('reverse', 'forward_own', 'forward')),
    L4=("Jensen-Shannon: own texts against the teacher's, on own", '-',
        beside('reverse', 'jsd_own', 'jsd')),
    L5=("reverse KL: own texts against the teacher's, on its", '+',
        beside('forward', 'reverse_own', 'reverse')),
    L6=("the paper's best, reverse KL on own texts, against the teacher's words, on own", '-',
        beside('reverse', 'reverse_own', 'words')),
  )  # fmt: skip


def sweep():
  """One line a seed."""
  for seed in range(3):
    yield {'seeds': (seed,)}
