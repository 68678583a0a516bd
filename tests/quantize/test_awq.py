"""Statistics, scales, clipping and GPTQ against their definitions on tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import DataError, UsageError
from reduction.qtensor import Scheme, spread
from reduction.quantize import awq, inputs
from reduction.quantize.calibrate import added, calibrate, empty, merged, nbytes
from reduction.quantize.clip import CLIPS, clip, clipped
from reduction.quantize.gptq import gptq
from reduction.quantize.learned import refined, straight
from reduction.quantize.method import Method
from reduction.quantize.rtn import grid, snapped
from tests.quantize.blocks import Block, filled

ROWS, OUT, TOKENS = 48, 12, 64


def tokens(seed=0, rows=ROWS, count=TOKENS):
  """Correlated channels, three of them twenty times as large."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(count, rows)) @ (np.eye(rows) + 0.3 * rng.normal(size=(rows, rows)))
  x[:, :3] *= 20
  return x.astype(np.float32)


def kernel(seed=1, rows=ROWS, out=OUT):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, out)) ** 3, jnp.float32)


def statistics(x, **how):
  return added(empty(x.shape[1], **how), jnp.asarray(x))


def output_error(x, change):
  return float(((x.astype(np.float64) @ np.asarray(change, np.float64)) ** 2).sum())


@pytest.mark.parametrize('block', [None, 20])
def test_sums_are_those_of_the_tokens(block):
  x = tokens()
  sums = added(added(empty(ROWS, block), x[:30].reshape(2, 15, ROWS)), x[30:])
  exact = x.T.astype(np.float64) @ x
  for i, gram in enumerate(sums.gram):  # 48 channels are blocks of 20, 20 and 8
    part = slice(i * len(gram), min((i + 1) * len(gram), ROWS))
    size = part.stop - part.start
    assert np.allclose(gram[:size, :size], exact[part, part], rtol=1e-5, atol=1e-2)
    assert not gram[size:].any() and not gram[:, size:].any()
  assert np.allclose(sums.mean, abs(x).mean(0), rtol=1e-5)
  assert np.array_equal(sums.most, abs(x).max(0)) and sums.count == TOKENS


def test_statistics_merge_as_their_tokens_do():
  x = tokens()
  apart = merged(statistics(x[:30]), statistics(x[30:]))
  for one, other in zip(apart, statistics(x)):
    assert np.allclose(one, other, rtol=1e-4, atol=1e-2)


def test_the_gram_matrix_gives_the_output_error():
  x, change = tokens(), kernel()
  assert np.isclose(awq.output_error(change, statistics(x)), output_error(x, change), rtol=1e-5)


def test_padding_and_batches_that_are_not_finite_do_not_count():
  x = tokens()
  seen = np.arange(TOKENS) < 40
  sums = added(empty(ROWS), x, jnp.asarray(seen))
  sums = added(sums, jnp.asarray(x).at[3, 5].set(jnp.nan))
  assert sums.count == 40 and sums.dropped == 1
  assert np.allclose(sums.gram, statistics(x[:40]).gram) and np.isfinite(sums.total).all()


MODULE = Block()
BATCHES = [np.random.default_rng(i).normal(size=(4, 3, 16)).astype(np.float32) for i in range(3)]


@functools.cache
def observed():
  params = filled(MODULE, BATCHES[0])
  by = inputs.find(MODULE, params, BATCHES[0])
  return params, by, calibrate(MODULE, params, BATCHES, by)


def test_a_module_is_calibrated_as_it_is():
  params, by, sums = observed()
  assert list(sums) == ['q', 'o', 'gate', 'down'] and sums['q'].count == 36
  normed = MODULE.norm(name='norm1')
  x = [normed.apply({'params': params['norm1']}, batch) for batch in BATCHES]
  assert np.allclose(sums['q'].gram, statistics(np.concatenate(x).reshape(36, 16)).gram, rtol=1e-4)
  assert nbytes(by) == sum(leaf.nbytes for leaf in jax.tree.leaves(sums))


def test_tokens_on_several_devices_are_summed_over_them():
  params, by, sums = observed()
  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
  apart = calibrate(MODULE, params, [jax.device_put(x, spread) for x in BATCHES], by)
  for one, other in zip(tree.leaves(sums), tree.leaves(apart)):
    assert np.allclose(one, other, rtol=1e-5, atol=1e-4)


def test_bad_calibration_data_is_named():
  params, by, _ = observed()
  with pytest.raises(UsageError, match='no batch was given'):
    calibrate(MODULE, params, [], by)
  bad = [BATCHES[0], BATCHES[1] * np.nan]
  with pytest.raises(DataError, match='input of q is not finite in 1 of 2 batches'):
    calibrate(MODULE, params, bad, by)


def test_a_batch_that_is_left_out_is_told(caplog):
  params, by, _ = observed()
  sums = calibrate(MODULE, params, [BATCHES[0]] * 19 + [BATCHES[1] * np.nan], by)
  assert 'the input of q is not finite in 1 of 20 batches, which are left out' in caplog.text
  without = calibrate(MODULE, params, [BATCHES[0]] * 19, by)
  for one, other in zip(sums.values(), without.values()):
    assert np.array_equal(one.gram, other.gram) and one.dropped == 1


def published(x, w, scheme, duo=False):
  """The scale search as the paper does it, on tokens, a candidate at a time: (losses, scales).

  duo: as AutoAWQ does, with the mean of |w| over the largest of its group.
  """
  mean, losses, scales = abs(x).mean(0), [], []
  groups = abs(w).reshape(-1, scheme.size(len(w)), w.shape[1])
  share = (groups / groups.max(1, keepdims=True)).reshape(w.shape).mean(1)
  for i in range(20):
    power = i / 20
    s = mean**power / (share ** (1 - power) + 1e-4) if duo else mean**power
    s = np.maximum(s, 1e-4)
    s = s / np.sqrt(s.max() * s.min())
    rounded = snapped(jnp.asarray(w * s[:, None]), scheme) / s[:, None]
    losses.append(output_error(x, rounded - w) / output_error(x, w))
    scales.append(s)
  return np.array(losses), scales[int(np.argmin(losses))]


@pytest.mark.parametrize(
  'scheme', [Scheme(3, 16), Scheme(4, 24, symmetric=True), Scheme(4, 'channel')]
)
def test_scales_are_the_papers(scheme):
  x, w = tokens(), kernel()
  losses, scale = published(x, np.asarray(w), scheme)
  found = awq.search([w], statistics(x), jnp.arange(ROWS), scheme=scheme)
  assert np.allclose(found.losses, losses, rtol=1e-3)
  assert np.allclose(found.scale, scale, rtol=1e-4) and 0 < found.exponent < 1
  assert found.losses.min() < 0.7 * found.losses[0]  # a third better than rounding at least


def test_duo_scales_are_autoawqs():
  x, w, scheme = tokens(), kernel(), Scheme(3, 16)
  losses, scale = published(x, np.asarray(w), scheme, duo=True)
  found = awq.search([w], statistics(x), jnp.arange(ROWS), scheme=scheme, duo=True)
  assert np.allclose(found.losses, losses, rtol=1e-3)
  assert np.allclose(found.scale, scale, rtol=1e-3)


def test_queries_and_keys_are_not_clipped_whatever_they_are_called():
  method = Method(Scheme(4, 16), clip=True)
  for linear in 'q', 'attention/key', 'h/q_proj', 'qkv', 'Wqkv', 'attn/c_attn', 'query_key_value':
    assert not method.clips(linear), linear
  for linear in 'v', 'attention/value', 'v_proj', 'mlp/up', 'o_proj', 'c_fc':
    assert method.clips(linear), linear


def test_scales_fall_back_to_rounding_where_other_tokens_disagree():
  x, w, scheme = tokens(), kernel(), Scheme(3, 16)
  flat = np.ones_like(x)
  flat[:, :3] = 0  # the channels that were large are never used
  held = statistics(flat * np.random.default_rng(2).normal(size=x.shape))
  found = awq.search([w], statistics(x), jnp.arange(ROWS), scheme=scheme, held=held)
  assert (found.scale == 1).all() and found.exponent == 0


@pytest.mark.parametrize('duo', [False, True])
def test_channels_that_were_never_active_keep_their_scale_and_move_no_other(duo):
  x, w, scheme = tokens(), kernel(), Scheme(3, 16)
  dead, rest = slice(16, 32), np.r_[:16, 32:ROWS]  # a whole group of the scheme
  x[:, dead] = 0
  search = lambda x, w: awq.search(
    [w], statistics(x), jnp.arange(len(w)), scheme=scheme, duo=duo
  )  # fmt: skip
  found, alone = search(x, w), search(x[:, rest], w[rest])
  assert alone.exponent > 0 and found.exponent == alone.exponent
  assert np.allclose(found.scale[dead], 1, rtol=1e-6)
  assert np.allclose(found.scale[rest], alone.scale, rtol=1e-5)
  assert (awq.candidate(jnp.zeros(4), 0.5) == 1).all()


def test_tied_channels_have_one_scale_and_duo_goes_by_weights_too():
  x, w, scheme = statistics(tokens()), kernel(), Scheme(4, 16)
  ties = jnp.arange(ROWS) // 2
  scale = awq.search([w], x, ties, scheme=scheme).scale
  assert np.array_equal(scale[::2], scale[1::2]) and len(set(scale.tolist())) == ROWS // 2
  assert np.isclose(scale.max() * scale.min(), 1, rtol=1e-5)
  duo = awq.search([w], x, jnp.arange(ROWS), scheme=scheme, duo=True)
  assert awq.output_error(_through(w, duo.scale, scheme) - w, x) < awq.output_error(
    snapped(w, scheme) - w, x
  )


def _through(w, scale, scheme):
  return snapped(w * scale[:, None], scheme) / scale[:, None]


def test_constant_zero_and_huge_channels_give_finite_scales():
  x = tokens()
  x[:, 5] = 0
  x[:, 6] = 1e6
  w = kernel().at[:, 7].set(0.0).at[16:32].set(0.0)
  found = awq.search([w], statistics(x), jnp.arange(ROWS), scheme=Scheme(4, 16), duo=True)
  assert np.isfinite(found.scale).all() and (found.scale > 0).all()


@pytest.mark.parametrize(
  'scheme, block', [(Scheme(3, 16), None), (Scheme(3, 20), None), (Scheme(3, 16), 32)]
)
def test_clipping_is_the_papers(scheme, block):
  x, w = tokens(), np.asarray(kernel())
  bound = np.asarray(clip(jnp.asarray(w), statistics(x, block=block), scheme=scheme))
  for g in range(scheme.groups(ROWS)):
    rows = slice(g * scheme.group, (g + 1) * scheme.group)
    part, errors = w[rows], []
    for i in range(CLIPS):
      most = abs(part).max(0) * (1 - i / 20)
      rounded = snapped(jnp.clip(part, -most, most), Scheme(3, 'channel'))
      errors.append(((x[:, rows].astype(np.float64) @ (rounded - part)) ** 2).sum(0))
    best = abs(part).max(0) * (1 - np.argmin(errors, 0) / 20)
    assert np.allclose(bound[g], best, rtol=1e-5)
  cut = clipped(jnp.asarray(w), jnp.asarray(bound), scheme.size(ROWS))
  rounded = snapped(cut, scheme)
  assert output_error(x, rounded - w) < output_error(x, snapped(jnp.asarray(w), scheme) - w)


def test_groups_that_cross_the_kept_blocks_are_refused():
  with pytest.raises(UsageError, match='groups of 16 cross the 40 channels'):
    clip(kernel(), statistics(tokens(), block=40), scheme=Scheme(4, 16))


def transcribed(w, gram, scheme, damp=0.01, order=None, static=False):
  """GPTQ row by row in NumPy, float64, without blocks: what the rows stand for."""
  w, rows = np.array(w, np.float64), len(w)
  size, most = scheme.size(rows), 2**scheme.bits - 1
  order = np.arange(rows) if order is None else order
  as_grid = lambda part: grid(
    jnp.asarray(part, jnp.float32), Scheme(scheme.bits, 'channel', scheme.symmetric)
  )
  fixed = [as_grid(w[i : i + size]) for i in range(0, rows, size)]
  w, gram = w[order], gram[np.ix_(order, order)].astype(np.float64)
  gram = gram + damp * np.diag(gram).mean() * np.eye(rows)
  upper = np.linalg.cholesky(np.linalg.inv(gram)).T
  for i in range(rows):
    if static:
      by = fixed[order[i] // size]
    elif i % size == 0:
      by = as_grid(w[i : i + size])
    scale, zero = (np.asarray(part[0], np.float64) for part in by)
    rounded = (np.clip(np.round(w[i] / scale) + zero, 0, most) - zero) * scale
    w[i + 1 :] -= np.outer(upper[i, i + 1 :] / upper[i, i], w[i] - rounded)
    w[i] = rounded
  return w[np.argsort(order)]


@pytest.mark.parametrize('ordered', [False, True], ids=['in order', 'ordered'])
@pytest.mark.parametrize('static', [False, True], ids=['grids in turn', 'grids fixed'])
@pytest.mark.parametrize(
  'scheme', [Scheme(3, 16), Scheme(4, 20, symmetric=True), Scheme(3, 'channel')], ids=str
)
def test_gptq_is_the_papers(scheme, static, ordered):
  x, w = tokens(), kernel()
  gram = x.T @ x
  order = np.argsort(-np.diag(gram), kind='stable') if ordered else None
  expected = transcribed(w, gram, scheme, order=order, static=static or scheme.group == 'channel')
  found = gptq(w, jnp.asarray(gram), scheme=scheme, ordered=ordered, static=static)
  different = ~np.isclose(found.kernel, expected, rtol=1e-3, atol=1e-4)
  assert different.mean() < 0.01, different.mean()  # a tie that rounds the other way moves a column
  assert output_error(x, found.kernel - w) < 0.8 * output_error(x, snapped(w, scheme) - w)


def test_gptq_survives_channels_of_zeros_and_a_matrix_of_low_rank():
  x = tokens(count=4)
  x[:, 7] = 0
  found = gptq(kernel(), jnp.asarray(x.T @ x), scheme=Scheme(4, 16), damp=1e-9)
  assert np.isfinite(found.kernel).all() and not found.kernel[7].any()


def test_awq_then_gptq_beats_either():
  x, w, scheme = tokens(), kernel(), Scheme(3, 16)
  sums = statistics(x)
  scale = awq.search([w], sums, jnp.arange(ROWS), scheme=scheme).scale
  error = lambda rounded: output_error(x, rounded - w)
  after = awq.scaled(sums, scale)
  assert np.allclose(after.gram[0], (x / scale).T @ (x / scale), rtol=1e-3, atol=1e-2)
  both = gptq(w * scale[:, None], after.gram[0], scheme=scheme).kernel / scale[:, None]
  alone = error(_through(w, scale, scheme)), error(gptq(w, sums.gram[0], scheme=scheme).kernel)
  assert error(both) < min(alone) < error(snapped(w, scheme))


def test_learned_scales_lose_less_than_the_grids():
  x, scheme, ties = tokens(count=256), Scheme(3, 16), jnp.arange(ROWS) // 2
  searched, held, w = statistics(x[:192]), statistics(x[192:]), [kernel(out=64), kernel(2, out=64)]
  how = dict(scheme=scheme, held=held)
  grids = awq.search(w, searched, ties, **how)
  best = refined(w, searched, ties, grids, **how)
  loss = lambda on, scale: awq.relative_errors(awq.through(w, scale, scheme), w, on)
  assert np.isclose(loss(searched, grids.scale), grids.losses.min(), rtol=1e-5)
  for on in searched, held:
    assert loss(on, best.scale) < 0.97 * loss(on, grids.scale)
  assert np.array_equal(best.scale[::2], best.scale[1::2]) and best.exponent == grids.exponent
  other = added(empty(ROWS), jnp.eye(ROWS)[:1])  # a token that has one channel
  kept = refined(w, searched, ties, grids, scheme=scheme, held=other)
  assert loss(other, kept.scale) <= loss(other, grids.scale)


@pytest.mark.parametrize('scheme', [Scheme(3, 16), Scheme(4, 'tensor', symmetric=True)], ids=str)
def test_straight_rounding_moves_with_the_step_of_its_group(scheme):
  w, change = kernel(), kernel(3)
  rounded, slope = jax.jvp(lambda w: straight(w, scheme), (w,), (change,))
  assert np.allclose(rounded, snapped(w, scheme), rtol=1e-5, atol=1e-6)
  step = lambda w: np.asarray(spread(grid(w, scheme).scale, scheme, ROWS), np.float64)
  share = (snapped(w, scheme) - w) / step(w)  # of a step, what rounding adds
  later = w + 1e-3 * change
  expected = change + share * (step(later) - step(w)) / 1e-3
  assert np.allclose(slope, expected, rtol=1e-2, atol=1e-2)
