"""The contract: streams, folds, stores, chain. Every resume is compared with an untouched run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import checkpoint, fold
from reduction.errors import UsageError
from reduction.run import Run, chain


def counting(run, count=4, name='count', crash=None):
  """A fold whose carry, outs and rows depend on every index before."""

  def step(carry, index, run):
    if index == crash:
      raise RuntimeError('crash')
    carry = dict(x=carry['x'] * 1.5 + index)
    run.log(index=index, x=carry['x'])
    return carry, dict(out=dict(x=carry['x'] + 0.25))

  carry, outs = run.fold(name, step, dict(x=jnp.ones(2)), count)
  return np.asarray(carry['x']), [np.asarray(o['out']['x']) for o in outs], run.rows


def test_saving_takes_a_fiftieth_of_a_run(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr('reduction.fold.time.monotonic', lambda: now[0])
  save, saves = checkpoint.Keeper.save, []

  def slow(*args):
    saves.append(now[0])
    now[0] += 10
    save(*args)

  monkeypatch.setattr(checkpoint.Keeper, 'save', slow)

  def step(carry, index, run):
    now[0] += 5
    return carry, None

  Run(workdir=tmp_path, save_every=20.0).fold('slow', step, dict(x=jnp.ones(2)), 150)
  # first after 20 s, then after 49 times the 10 s that saving took, and at the end
  assert saves == [20, 520, 770]


def test_outs_that_fill_the_memory_are_saved_before_their_time(tmp_path, monkeypatch):
  monkeypatch.setattr(fold, 'WAITING', 100)
  waiting = []

  def step(carry, index, run):
    waiting.append(len(list(tmp_path.glob('checkpoints/large/outs/*'))))
    return carry, dict(out=jnp.full(10, index, jnp.float32))

  _, outs = Run(workdir=tmp_path, save_every=1e6).fold('large', step, dict(x=jnp.ones(2)), 7)
  assert waiting == [0, 0, 0, 1, 1, 1, 2]  # 40 bytes each
  assert [int(out['out'][0]) for out in outs] == list(range(7))


def test_key_depends_on_seed_stream_and_salt_alone():
  a = Run(seeds=(3, 4)).key('data', 1)
  b = Run(seeds=(4,)).child('another-name').child('deep').key('data', 1)
  words = jax.random.key_data
  assert np.array_equal(words(a)[1], words(b)[0])
  others = [('data', 2), ('init', 1), ('data',)]
  assert all(not np.array_equal(words(a), words(Run(seeds=(3, 4)).key(*o))) for o in others)


def test_unknown_stream_and_repeated_seeds_are_refused():
  with pytest.raises(UsageError, match='init, data'):
    Run().key('weights')
  with pytest.raises(UsageError, match='must differ'):
    Run(seeds=(1, 1))


def test_a_name_is_used_once():
  run = Run()
  counting(run)
  with pytest.raises(UsageError, match="already has a part named 'count'"):
    counting(run)


@pytest.mark.parametrize('name', ['', 'a/b', '..', 'a b', 'a.b'])
def test_names_that_could_leave_the_workdir_are_refused(name):
  with pytest.raises(UsageError, match='cannot name a part'):
    Run().child(name)


@pytest.mark.parametrize('crash', [0, 1, 3])
@pytest.mark.parametrize('save_every', [0.0, 20.0])
def test_a_crashed_fold_resumes_to_the_same_bits_and_rows(tmp_path, crash, save_every):
  wanted = counting(Run())
  with pytest.raises(RuntimeError):
    counting(Run(workdir=tmp_path, save_every=save_every), crash=crash)
  resumed = counting(Run(workdir=tmp_path, save_every=save_every))
  again = counting(Run(workdir=tmp_path))  # from the finished fold
  for got in resumed, again:
    assert np.array_equal(got[0], wanted[0])
    assert np.array_equal(got[1], wanted[1])
    assert got[2] == wanted[2]


def test_nested_folds_resume_inside_and_drop_what_the_outer_one_committed(tmp_path):
  def work(run, crash=None):
    def outer(carry, index, run):
      inner, _, _ = counting(run, count=3, crash=1 if index == crash else None)
      return carry + inner.sum(), None

    return np.asarray(run.fold('outer', outer, jnp.zeros(()), 3)[0]), run.rows

  wanted = work(Run())
  with pytest.raises(RuntimeError):
    work(Run(workdir=tmp_path, save_every=0.0), crash=2)
  kept = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {'outer', 'outer.2.count'}
  assert work(Run(workdir=tmp_path, save_every=0.0)) == wanted
  assert {p.name for p in (tmp_path / 'checkpoints').iterdir()} == {'outer'}


def test_a_checkpoint_of_another_beginning_refuses(tmp_path):
  counting(Run(workdir=tmp_path))
  with pytest.raises(UsageError, match='another initial state or count'):
    counting(Run(workdir=tmp_path), count=5)
  step = lambda carry, index, run: (carry, None)
  Run(workdir=tmp_path).fold('one', step, dict(x=jnp.zeros(2)), 3)
  with pytest.raises(UsageError, match='another initial state or count'):  # of the same shapes
    Run(workdir=tmp_path).fold('one', step, dict(x=jnp.ones(2)), 3)


@pytest.mark.parametrize(
  'other, says',
  [
    (dict(x=jnp.ones(3)), r'x is float32\[2\], this run has float32\[3\]'),
    (dict(x=jnp.ones(2, jnp.bfloat16)), r'x is float32\[2\], this run has bfloat16\[2\]'),
    (dict(y=jnp.ones(2)), 'holds x'),
  ],
)
def test_a_checkpoint_of_another_model_names_the_leaf(tmp_path, other, says):
  counting(Run(workdir=tmp_path))
  with pytest.raises(UsageError, match=says):
    Run(workdir=tmp_path).fold('count', lambda c, i, r: (c, None), other, 4)


def test_any_leaf_survives_a_checkpoint(tmp_path):
  carry = dict(
    key=jax.random.key(3), half=jnp.full(3, 1.5, jnp.bfloat16), flag=jnp.array([True, False]),
    byte=np.arange(4, dtype=np.uint8), empty=jnp.zeros((0, 2)), pair=(jnp.int32(3), None),
  )  # fmt: skip
  step = lambda carry, index, run: (carry, None)
  Run(workdir=tmp_path).fold('keep', step, carry, 1)
  back, _ = Run(workdir=tmp_path).fold('keep', step, carry, 1)
  assert jax.tree.structure(back) == jax.tree.structure(carry)
  assert (jax.random.bits(back.pop('key')) == jax.random.bits(carry.pop('key'))).all()
  for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(carry)):
    assert a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize('on_disk', [True, False])
def test_store_shows_what_earlier_indices_wrote(tmp_path, on_disk):
  run = Run(workdir=tmp_path if on_disk else None)
  store = run.store('clients', dict(w=jnp.zeros(2), n=0))
  seen = []

  def step(carry, index, run):
    seen.append(float(store['7']['w'][0]))
    store[7] = dict(w=jnp.full(2, index + 1.0), n=index)
    seen.append(float(store[7]['w'][0]))
    return carry, None

  run.fold('rounds', step, jnp.zeros(()), 3)
  assert seen == [0, 0, 1, 1, 2, 2]
  assert int(store[7]['n']) == 2 and float(store[8]['w'][0]) == 0
  if on_disk:
    assert len(list((tmp_path / 'stores/clients').iterdir())) == 1


def test_a_crash_in_a_round_leaves_the_store_as_it_was_before(tmp_path):
  def rounds(run, crash=None):
    store = run.store('clients', jnp.zeros(()))

    def step(carry, index, run):
      for client in range(3):
        store[client] = store[client] * 2 + index + 1
        if (index, client) == crash:
          raise RuntimeError
      return carry + store[0], None

    carry, _ = run.fold('rounds', step, jnp.zeros(()), 4)
    return float(carry), [float(store[c]) for c in range(3)]

  wanted = rounds(Run())
  for crash in [(0, 1), (2, 1), (3, 2)]:
    with pytest.raises(RuntimeError):
      rounds(Run(workdir=tmp_path, save_every=0.0), crash)
  assert rounds(Run(workdir=tmp_path, save_every=0.0)) == wanted


def test_chain_measures_before_and_after_and_remembers_nets():
  run = Run(measure=lambda net, run: dict(nonzero=net))
  double, add = (lambda net, run: net * 2), (lambda net, run: net + run.nets['double'])
  assert chain(double=double, add=add)(3, run) == 12
  measured = [(row['stage'], row['nonzero']) for row in run.rows]
  assert measured == [('start', 3), ('double', 6), ('add', 12)]
  assert run.nets == dict(start=3, double=6, add=12)


def test_rows_are_plain_json_values():
  run = Run(seeds=(5, 6))
  part = run.child('part', net='ticket')
  part.log(a=jnp.float32(0.3), b=jnp.arange(2), c=np.float32('nan'), d=(1,))
  assert run.rows == [dict(at='part', net='ticket', a=0.3, b=[0, 1], c=None, d=[1])]


def test_a_written_folder_is_whole_or_not_there(tmp_path):
  part = Run(workdir=tmp_path).child('deploy')
  with pytest.raises(RuntimeError), part.write('c') as folder:
    (folder / 'net.c').write_text('half')
    raise RuntimeError
  assert list(tmp_path.rglob('*.c')) == []
  for text in 'first', 'second':
    with part.write('c') as folder:
      (folder / f'{text}.c').write_text(text)
  assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*.c')] == [
    'files/deploy/c/second.c'
  ]
  with pytest.raises(UsageError, match='needs a workdir'), Run().write('c'):
    pass
