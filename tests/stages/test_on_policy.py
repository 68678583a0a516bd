"""Students of a language model: what they learn on, by what they are judged, and a crash."""

import numpy as np
import pytest

from reduction import stages, tree
from reduction.errors import UsageError
from reduction.predict import logits
from reduction.run import Run, chain
from reduction.stages.on_policy import Texts, apart, telling

STUDENT = dict(name='llama', layers=1, width=16, heads=2, inner=24, vocabulary=50, positions=16)
SHORT = dict(
  student=STUDENT, steps=100, batch=25, every=50, texts=100, held=100, length=12,
  optimizer=dict(name='adam', learning_rate=1e-2),
)  # fmt: skip


@pytest.fixture(scope='module')
def teacher(tiny):
  """A net that may go on in several ways, and passages."""
  model, data = tiny
  calm = lambda path, w: np.asarray(w) * (0.25 if path.startswith('embed') else 1)
  return model.net.replace(params=tree.map_named(calm, model.net.params)), data


def taught(teacher, root=None, **settings):
  """(the students by name, their 'policy' rows by name, the run)"""
  net, data = teacher
  run = Run(data, (0,), root, save_every=0)
  chain(**{name: stages.on_policy(**SHORT | how) for name, how in settings.items()})(net, run)
  rows = {row['at']: row for row in run.rows if row['kind'] == 'policy'}
  return run.nets, rows, run


def test_students_come_nearer_on_the_texts_that_they_learn_on(teacher):
  nets, rows, run = taught(
    teacher, words=dict(learns='words', share=0.0), forward=dict(learns='forward', share=0.0),
    own=dict(learns='reverse'), little=dict(learns='reverse', steps=1, every=1),
  )  # fmt: skip
  forward, reverse = (
    {name: row[key][0] for name, row in rows.items()} for key in ('forward', 'reverse')
  )
  assert forward['forward'] < min(forward['words'], forward['little'])
  assert reverse['own'] < min(reverse['forward'], reverse['little'])
  assert rows['own']['learns'] == 'reverse' and rows['own']['share'] == 1.0
  # what is in a row is what the definition says, of texts told with the same keys
  model = teacher[0]
  key = run.key('noise', 7)[0]
  own = telling(nets['own'], Texts(100, 12, 1), key, Run(run.data))
  assert (own[:, 0] == 1).all() and own.shape == (100, 12) and len(np.unique(own, axis=0)) > 50
  said = [logits(net, own)[0, :, :-1].astype(np.float64) for net in (nets['own'], model)]
  logs = [z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
          - z.max(-1, keepdims=True) for z in said]  # fmt: skip
  by_hand = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean()
  assert reverse['own'] == pytest.approx(by_hand, rel=1e-4)
  assert apart(model, model, own) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_crash_changes_no_bit(teacher, tmp_path, monkeypatch):
  settings = dict(first={}, second=dict(learns='jsd', share=0.5))
  whole, rows, _ = taught(teacher, tmp_path / 'whole', **settings)
  fold = Run.fold

  def failing(run, name, step, carry, count):
    def one(carry, i, run):
      if name == 'train' and run.path[0] == 'second':
        raise RuntimeError('crash')
      return step(carry, i, run)

    return fold(run, name, one, carry, count)

  with monkeypatch.context() as patch:
    patch.setattr(Run, 'fold', failing)
    with pytest.raises(RuntimeError, match='crash'):
      taught(teacher, tmp_path / 'crashed', **settings)
  again, others, _ = taught(teacher, tmp_path / 'crashed', **settings)
  for name in 'first', 'second':
    pairs = zip(tree.leaves(again[name].params), tree.leaves(whole[name].params), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert others[name]['reverse'] == rows[name]['reverse']


@pytest.mark.slow
def test_a_student_may_begin_as_another(teacher):
  brief = dict(steps=1, every=1, optimizer=dict(name='sgd', learning_rate=1e-9))
  nets, _, _ = taught(teacher, first={}, on=dict(brief, begins='first'), afresh=brief)
  near = lambda a, b: all(
    np.allclose(v, w, atol=1e-6) for v, w in zip(tree.leaves(a.params), tree.leaves(b.params))
  )
  assert near(nets['on'], nets['first']) and not near(nets['afresh'], nets['first'])
  other = dict(student=dict(STUDENT, inner=32), begins='first')
  with pytest.raises(UsageError, match="begins='first' is no net of student="):
    taught(teacher, first=brief, on=other)


@pytest.mark.parametrize(
  'how, says',
  [
    (dict(learns='foward'), "learns='foward' is unknown. Did you mean 'forward'"),
    (dict(learns='words'), "learns='words' are the teacher's: share=0, not 1.0"),
    (dict(texts=150), 'texts=150 must be hundreds'),
    (dict(held=0), 'held=0 must be hundreds'),
    (dict(length=1), 'length=1 must be 2 tokens'),
    (dict(share=2.0), 'share=2.0 must lie in'),
    (dict(student=dict(STUDENT, vocabulary=60)), 'reads 60 tokens, the teacher 50'),
  ],
)
def test_wrong_settings_are_refused(teacher, how, says):
  with pytest.raises(UsageError, match=says):
    taught(teacher, student=how)


def test_several_seeds_are_refused(teacher):
  net, data = teacher
  with pytest.raises(UsageError, match='one seed'):
    chain(one=stages.on_policy(**SHORT))(net, Run(data, (0, 1)))
