"""Boxes by hand: overlap, cells and back, a loss that falls to nothing, average precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reduction import detection as d
from reduction import prune, tree
from reduction.mcu import from_flax, sparse
from reduction.models import yolo
from reduction.net import Net, initializer
from reduction.prune import channels, select


def boxes(*rows, kinds=None, scores=None):
  count = len(rows)
  return d.Boxes(np.array(rows, float).reshape(-1, 4),
                 np.array(kinds if kinds is not None else [0] * count, int),
                 np.array(scores if scores is not None else [1.0] * count, float))  # fmt: skip


def test_overlap_by_hand():
  a = np.array([[0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 3]], float)
  b = np.array([[1, 1, 3, 3], [0, 0, 2, 2]], float)
  np.testing.assert_allclose(d.iou(a, b), [[1 / 7, 1], [0, 1 / 4], [0, 0]])


def logits(grid):
  """Outputs that say a grid with great certainty."""
  inside = np.clip(grid[..., :5], 1e-6, 1 - 1e-6)
  return np.concatenate([np.log(inside / (1 - inside)), 20 * grid[..., 5:]], -1)


def test_what_cells_are_told_is_what_they_say():
  truth = boxes((0.1, 0.2, 0.4, 0.9), (0.5, 0.5, 1.0, 0.75), (0.0, 0.0, 0.1, 0.1), kinds=[1, 0, 1])
  grid = d.targets(truth, (4, 5), 2)
  assert grid[..., 0].sum() == 3
  found = d.decode(logits(grid)[None])[0]
  order = np.lexsort(found.boxes.T), np.lexsort(truth.boxes.T)
  np.testing.assert_allclose(found.boxes[order[0]], truth.boxes[order[1]], atol=1e-5)
  assert found.kinds[order[0]].tolist() == truth.kinds[order[1]].tolist()
  assert d.average_precision([found], [truth]) == 1


def test_the_loss_of_the_truth_is_least_and_an_empty_cell_tells_no_place():
  grid = d.targets(boxes((0.1, 0.2, 0.4, 0.9)), (3, 3), 1)[None]
  right = d.loss(jnp.asarray(logits(grid)), grid)
  assert right < 1e-3
  elsewhere = logits(grid).copy()
  elsewhere[0, 2, 2, 1:5] = 9  # a cell that holds nothing
  assert d.loss(jnp.asarray(elsewhere), grid) == pytest.approx(float(right))
  unsure = jnp.zeros((1, 3, 3, 6))
  by_hand = np.log(2) * (1 + 8 * d.NOTHING) + d.PLACE * ((grid[0, 1, 0, 1:5] - 0.5) ** 2).sum()
  assert d.loss(unsure, grid) == pytest.approx(by_hand, rel=1e-5)


def test_of_boxes_on_one_another_the_best_stays():
  grid = np.full((1, 2, 2, 6), -20.0)
  grid[0, 0, 0], grid[0, 0, 1] = (3, 9, 0, 0, 0, 0), (1, -9, 0, 0, 0, 0)  # the same place
  found = d.decode(grid)[0]
  assert len(found.scores) == 1 and found.scores[0] == pytest.approx(1 / (1 + np.exp(-3)))
  assert len(d.decode(grid, overlap=1.0)[0].scores) == 2


def test_average_precision_by_hand():
  """Right, wrong, right of three true boxes: (1 + 2 / 3) / 3; a second hit of one box is wrong."""
  truth = [boxes((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)), boxes((0, 0, 1, 1))]
  found = [boxes((0, 0, 0.5, 0.5), (0, 0, 0.5, 0.45), scores=[0.9, 0.8]),
           boxes((0, 0, 1, 0.9), scores=[0.7])]  # fmt: skip
  assert d.average_precision(found, truth) == pytest.approx((1 + 2 / 3) / 3)
  assert d.average_precision([boxes(), boxes()], truth) == 0
  assert np.isnan(d.average_precision([boxes()], [boxes()]))


@pytest.mark.slow
def test_the_detector_learns_made_up_boxes():
  """Mechanics alone: four pictures of bright rectangles are learned by heart, again with half of
  the filterlets, and found in integers too."""
  random, pictures, grids, truth = np.random.default_rng(0), [], [], []
  for _ in range(4):
    left, top = random.integers(2, 14, 2)
    picture = np.zeros((32, 32, 1), np.float32)
    picture[top : top + 14, left : left + 12] = 1
    truth.append(boxes((left / 32, top / 32, (left + 12) / 32, (top + 14) / 32)))
    pictures.append(picture)
    grids.append(d.targets(truth[-1], (2, 2), 1))
  x, grid = np.stack(pictures), np.stack(grids)
  module = yolo(width=4)
  params, stats = jax.jit(initializer(module))(jax.random.key(0), x)

  def value(params, masks):
    outputs, _ = module.apply({'params': tree.keep(params, masks), 'batch_stats': stats}, x,
                              train=True, mutable=['batch_stats'])  # fmt: skip
    return d.loss(outputs, grid), outputs

  tx = optax.adam(1e-2)

  @jax.jit
  def step(params, masks, opt):
    (_, outputs), grads = jax.value_and_grad(value, has_aux=True)(params, masks)
    updates, opt = tx.update(grads, opt)
    return optax.apply_updates(params, updates), opt, outputs

  def learned(params, masks):
    opt = tx.init(params)
    for _ in range(120):
      params, opt, outputs = step(params, masks, opt)
    return tree.keep(params, masks), outputs

  params, outputs = learned(params, prune.all_kept(params))
  assert d.average_precision(d.decode(outputs), truth) == 1
  found = channels.structure(module, params, stats, x[:1])
  one = tree.map(lambda w: w[None], params)
  masks = select.select(prune.magnitude(one), prune.all_kept(one), 'filterlet', found, 0.5)
  params, outputs = learned(params, tree.map(lambda m: jnp.asarray(m[0]), masks))
  assert d.average_precision(d.decode(outputs), truth) == 1
  moving = _moving(module, params, stats, x)
  net = Net(module, *tree.map(lambda w: w[None], (params, moving)), masks)
  small = channels.shrunk(net, found)
  graph = sparse.sparsify(from_flax.convert(small, x))
  assert any(isinstance(op, sparse.Sparse) for op in graph.ops)
  codes = from_flax.logits(graph, x).reshape(4, 2, 2, 6)
  assert d.average_precision(d.decode(codes), truth) == 1


def _moving(module, params, stats, x):
  """Moving statistics that are those of these pictures."""
  seen = jax.jit(lambda stats: module.apply(
    {'params': params, 'batch_stats': stats}, x, train=True, mutable=['batch_stats']
  )[1]['batch_stats'])  # fmt: skip
  for _ in range(60):
    stats = seen(stats)
  return stats
