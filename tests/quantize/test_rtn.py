"""Round to nearest: grids by hand and by a transcription, errors within half a step."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reduction.errors import UsageError
from reduction.qtensor import Scheme, dequantize, spread
from reduction.quantize import Grid, codes, grid, on_grid, quantize, snapped

RNG = np.random.default_rng(0)
W = RNG.standard_normal((172, 6)).astype(np.float32)  # 172 = 4 * 43
SCHEMES = [
  Scheme(bits, group, symmetric)
  for bits in (2, 3, 4, 8)
  for group in (43, 64, 'channel', 'tensor')  # 64 leaves 44 rows at the end
  for symmetric in (False, True)
]


@pytest.mark.parametrize('scheme', SCHEMES, ids=str)
def test_no_weight_moves_by_more_than_half_a_step(scheme):
  by = grid(W, scheme)
  q = quantize(W, scheme)
  back = np.asarray(dequantize(q))
  half = np.asarray(spread(by.scale, scheme, 172)) / 2
  assert (np.abs(back - W) <= half * (1 + 1e-5)).all()
  np.testing.assert_array_equal(back, snapped(W, scheme))
  assert q.shape == W.shape and q.scheme == scheme
  # what is on the grid stays
  np.testing.assert_array_equal(on_grid(back, by, scheme), back)


@pytest.mark.parametrize('symmetric', [False, True])
def test_groups_are_independent_and_the_last_may_be_shorter(symmetric):
  whole = np.asarray(snapped(W, Scheme(3, 64, symmetric)))
  for part in slice(0, 64), slice(64, 128), slice(128, 172):
    alone = snapped(W[part], Scheme(3, 'channel', symmetric))
    np.testing.assert_array_equal(whole[part], alone)


def test_the_other_axis_is_the_transpose():
  one = quantize(W, Scheme(4, 64))
  other = quantize(W.T, Scheme(4, 64, axis=-1))
  np.testing.assert_array_equal(one.data.T, other.data)
  np.testing.assert_array_equal(dequantize(one).T, dequantize(other))
  tensor = Scheme(4, 'tensor', axis=-1)
  np.testing.assert_array_equal(snapped(W.T, tensor), snapped(W, Scheme(4, 'tensor')).T)


def test_replicates_have_grids_of_their_own():
  both = np.stack([W, 3 * W])
  for group in 43, 'tensor':
    got = snapped(both, Scheme(4, group))
    np.testing.assert_array_equal(got[1], snapped(3 * W, Scheme(4, group)))


def test_a_grid_by_hand():
  w = np.array([[-1.0], [0.0], [0.5], [2.0]], np.float32)
  by = grid(w, Scheme(2, 'channel'))  # 3 steps of 1 from -1 to 2
  assert by.scale.item() == 1 and by.zero.item() == 1
  assert codes(w, by, Scheme(2, 'channel'))[:, 0].tolist() == [0, 1, 1, 3]  # 0.5 to even
  by = grid(w, Scheme(3, 'channel', symmetric=True))  # 2 is code 4 + 3
  assert by.scale.item() == pytest.approx(2 / 3) and by.zero.item() == 4
  assert codes(w, by, Scheme(3, 'channel', True))[:, 0].tolist() == [2, 4, 5, 7]


def theirs(w, bits, group):
  """The published quantizer of AWQ, for rows [out, in] as they lie there: a transcription."""
  shape, most = w.shape, 2**bits - 1
  w = w.reshape(-1, group)
  high, low = w.max(1, keepdims=True), w.min(1, keepdims=True)
  scale = np.maximum(high - low, np.float32(1e-5)) / np.float32(most)
  zero = np.clip(-np.round(low / scale), 0, most)
  return ((np.clip(np.round(w / scale) + zero, 0, most) - zero) * scale).reshape(shape)


@pytest.mark.parametrize('bits', [3, 4])
def test_the_published_quantizer_bit_for_bit(bits):
  w = np.concatenate([W, 1 + 0.1 * np.abs(W), np.full((43, 6), 0.5, np.float32)])
  scheme = Scheme(bits, 43)
  got = snapped(w, scheme, compatible='llm-awq')
  np.testing.assert_array_equal(got, theirs(np.ascontiguousarray(w.T), bits, 43).T)


def test_weights_of_one_sign_survive():
  w = (1 + 0.1 * RNG.standard_normal((128, 64))).astype(np.float32)
  worst = lambda **how: float(jnp.abs(snapped(w, Scheme(4, 128), **how) - w).max())
  assert worst() < 0.05
  assert worst(compatible='llm-awq') > 0.5
  same = np.full((128, 1), 0.5, np.float32)
  assert float(jnp.abs(snapped(same, Scheme(4, 128)) - same).max()) < 1e-6


@pytest.mark.parametrize('scheme', [Scheme(4, 64), Scheme(4, 64, True)], ids=str)
def test_zeros_stay_zeros_and_small_weights_keep_a_scale(scheme):
  assert not np.asarray(snapped(np.zeros((64, 2), np.float32), scheme)).any()
  small = 1e-6 * W[:64]
  q = quantize(small, scheme, dtype=jnp.float16)
  assert np.isfinite(dequantize(q)).all() and (np.asarray(q.scale) > 0).all()
  assert np.abs(dequantize(q) - small).max() <= float(q.scale.max())


def test_codes_are_chosen_for_the_scale_that_is_kept():
  scheme = Scheme(8, 64)
  q = quantize(W, scheme, dtype=jnp.float16)
  kept = Grid(q.scale.astype(jnp.float32), q.zero.astype(jnp.float32))
  np.testing.assert_array_equal(dequantize(q), on_grid(W, kept, scheme))
  # chosen for the exact scale, they would be further off
  exact = grid(W, scheme)
  careless = (codes(W, exact, scheme) - spread(exact.zero, scheme, 172)) * spread(
    kept.scale, scheme, 172
  )
  error = lambda w: float(jnp.square(w - W).mean())
  assert error(dequantize(q)) <= error(careless)


@pytest.mark.parametrize(
  'call, says',
  [
    (lambda: grid(W, Scheme(4, 64), compatible='llm-awq'), 'llm-awq has no Scheme.* of 172 rows'),
    (lambda: grid(W, Scheme(4, 43, True), compatible='llm-awq'), 'llm-awq has no'),
    (lambda: grid(W, Scheme(4, 43), compatible='awq'), "compatible='awq' is unknown"),
    (lambda: quantize(W[:, 0], Scheme(4, 43)), r'shape \(172,\) has no rows and columns'),
  ],
)
def test_what_cannot_be_is_refused(call, says):
  with pytest.raises(UsageError, match=says):
    call()


@pytest.mark.parametrize('rows, group', [(576, 128), (11_008, 192), (11_008, 128), (576, 192)])
@pytest.mark.parametrize('bits', [3, 4])
def test_rows_of_real_models_and_their_tails(rows, group, bits):
  w = RNG.standard_normal((rows, 3)).astype(np.float32)
  scheme = Scheme(bits, group)
  q = quantize(w, scheme)
  back = np.asarray(dequantize(q))
  half = np.asarray(spread(grid(w, scheme).scale, scheme, rows)) / 2
  assert (np.abs(back - w) <= half * (1 + 1e-5)).all()
  assert q.data.nbytes == rows * 3 * bits // 8 and q.scale.shape == (-(-rows // group), 3)
  tail = rows % group
  if tail:
    np.testing.assert_array_equal(back[-tail:], snapped(w[-tail:], Scheme(bits, 'channel')))


@settings(max_examples=60, deadline=None)
@given(
  rows=st.integers(1, 70), columns=st.integers(1, 5), group=st.sampled_from([3, 8, 64, 'channel']),
  bits=st.sampled_from([2, 3, 4, 8]), symmetric=st.booleans(), seed=st.integers(0, 99),
  kind=st.sampled_from(['zero', 'constant', 'one sign', 'one group', 'any']),
)  # fmt: skip
def test_weights_of_any_kind_and_shape_come_back(rows, columns, group, bits, symmetric, seed, kind):
  """No NaN; zeros stay zeros, constants what they were; every group is rounded for itself."""
  random = np.random.default_rng(seed)
  w = random.standard_normal((rows, columns)).astype(np.float32)
  if kind == 'zero':
    w[:] = 0
  elif kind == 'constant':
    w[:] = w[0, 0]
  elif kind == 'one sign':
    w = 5 + abs(w)
  elif kind == 'one group':
    w[: max(1, rows // 2)] = 0
  scheme = Scheme(bits, group, symmetric)
  back = np.asarray(dequantize(quantize(w, scheme)))
  assert np.isfinite(back).all() and back.shape == w.shape
  np.testing.assert_array_equal(back[w == 0], 0)
  if kind == 'constant':
    np.testing.assert_allclose(back, w, rtol=1e-5)
  size = rows if group == 'channel' else group
  for at in range(0, rows, size):
    part = snapped(w[at : at + size], Scheme(bits, 'channel', symmetric))
    np.testing.assert_array_equal(back[at : at + size], part)
