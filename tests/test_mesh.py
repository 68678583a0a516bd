"""Several devices agree with one."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from reduction import mesh, prune, stages, tree
from reduction.errors import UsageError
from reduction.net import create
from reduction.run import Run
from reduction.train import fit
from reduction.update import optimizer


def trained(digits, module, on, tx=None, **settings):
  """(last net, best, rows) of 100 steps."""
  run = Run(digits, (0, 1), mesh=on)
  net = create(module, run.key('init', 0), digits.train.x[:1])
  rates = prune.by_name(net.params, (('kernel', 0.5),))
  cut = jax.vmap(lambda w: prune.smallest(prune.magnitude(w), prune.all_kept(w), rates))
  tx = tx or optimizer('adam', learning_rate=1e-3)
  schedule = dict(steps=100, batch=60, every=50) | settings
  last, best = fit(net.replace(masks=cut(net.params)), run, jax.device_put(digits.splits()), tx,
                   **schedule)  # fmt: skip
  return last, best, run.rows


def assert_close(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * max(1e-3, np.abs(x).max()))


@pytest.mark.parametrize('shape', [(4, 1), (2, 2), (1, 4)])
def test_four_devices_agree_with_one(digits, module, shape):
  alone, on = (trained(digits, module, m) for m in (None, mesh.make(*shape)))
  assert_close(alone[:2], on[:2])
  for a, b in zip(alone[2], on[2], strict=True):
    np.testing.assert_allclose(a['validation_loss'], b['validation_loss'], rtol=1e-5)
  assert all(len(x.devices()) == 1 for x in tree.leaves(on[0]))


class Normed(nn.Module):
  """A dense layer whose outputs are normalized over the batch."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(8)(x.reshape(len(x), -1))
    return nn.Dense(10)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))


def test_batch_statistics_are_those_of_the_whole_batch(digits):
  module = Normed()
  tx = optimizer('sgd', learning_rate=0.1, momentum=0.9)  # Adam magnifies a last bit of a gradient
  alone, on = (
    trained(digits, module, m, tx, steps=4, batch=20, every=2) for m in (None, mesh.make(2, 2))
  )
  assert_close(alone[0].stats, on[0].stats)


def test_weights_and_batches_lie_apart():
  on = mesh.parse('2x2')
  w, b = np.ones((3, 8, 6), np.float32), np.ones((3, 6), np.float32)
  placed = mesh.place(on, dict(w=w, b=b, odd=np.ones((3, 8, 5), np.float32)), mesh.weights)
  shards = {name: {s.data.shape for s in x.addressable_shards} for name, x in placed.items()}
  assert shards == dict(w={(3, 8, 3)}, b={(3, 6)}, odd={(3, 8, 5)})
  indices = mesh.place(on, np.ones((3, 2, 60), np.int32), mesh.batches)
  assert {s.data.shape for s in indices.addressable_shards} == {(3, 2, 30)}


def test_one_program_serves_all_levels_on_a_mesh(digits, module):
  run = Run(digits, (0,), mesh=mesh.make(4))
  net = create(module, run.key('init', 0), digits.train.x[:1])
  mesh.program.cache_clear()
  stages.lottery(
    rounds=2, rates=(('kernel', 0.2),), steps=100, batch=60, every=50,
    optimizer=dict(name='adam', learning_rate=1e-3), controls=dict(reinit={}),
  )(net, run)  # fmt: skip
  assert mesh.program.cache_info().currsize == 1
  row = [row for row in run.rows if row['kind'] == 'level'][-1]
  assert row['kept'] == pytest.approx(0.64, abs=0.01)


@pytest.mark.parametrize(
  'do, says',
  [
    (lambda: mesh.make(64), '64 x 1 needs 64 devices, there are 4; on a CPU XLA_FLAGS='),
    (lambda: mesh.parse('0'), '0 x 1 must have'),
    (lambda: mesh.parse('2,2'), "mesh '2,2' is not DATA or DATAxMODEL"),
    (lambda: mesh.check_batch(mesh.make(4), 30), 'batch=30 does not divide over the 4 .* take 32'),
  ],
)
def test_what_does_not_fit_is_refused(do, says):
  with pytest.raises(UsageError, match=says):
    do()
