"""The benchmarks of an accelerator's kernels, here on whatever runs the tests."""

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.accelerated import _flat, _read, accelerated
from launch.benchmarks.remembering import at_once, remembering
from launch.benchmarks.sides import Session
from reduction.kernels import attention


def test_rows_of_each_product_beside_floats_and_reading():
  said = []
  bench = accelerated(shapes=((256, 128),), rows_of_x=(3,), group=128, bytes=100_000, repeats=2,
                      launches=12)  # fmt: skip
  rows, (table,) = bench(Session(None, 'python', said.append))
  told = [(row['product'], row.get('peer')) for row in rows]
  wanted = [('INT4', 'bfloat16'), ('INT4', 'INT4, floats first'), ('INT3', 'INT3, floats first')]
  assert told == wanted
  for row in rows:
    assert row['count'] == 3 and 0 < row['s_low'] <= row['s'] <= row['s_high']
    assert 'peer' not in row or row['ratio_low'] <= row['ratio'] <= row['ratio_high']
  assert rows[0]['bytes'] > rows[2]['bytes']
  assert len(table.rows) == 3 and said == ['accelerated: 256 x 128, 3 rows']


def test_reading_meets_every_byte_and_differs_with_x():
  weight = (jnp.arange(24, dtype=jnp.uint8).reshape(4, 6), jnp.ones(2, jnp.int32))
  words = _flat(weight)
  assert np.asarray(words).tobytes() == bytes(range(24)) + np.ones(2, np.int32).tobytes()
  x = jnp.asarray([[1.0]], jnp.bfloat16)
  one, two = (int(_read(x * by, words)[0, 0]) for by in (1, 2))
  bits = int(jax.lax.bitcast_convert_type(x[0, 0], jnp.uint16))
  assert one == sum(int(w) ^ bits for w in np.asarray(words)) % 2**32 != two


def test_rows_of_a_token_s_attention_beside_blocks_all_places_and_reading():
  bench = remembering(memories=((4, 2, 8, 256),), filled=(1, 130), stored=('bfloat16', 'int8'),
                      bytes=20_000, repeats=2, launches=3)  # fmt: skip
  rows, (table,) = bench(Session(None, 'python', lambda line: None))
  assert [(row['stored'], row['filled'], row['peer']) for row in rows] == [
    (stored, filled, peer) for stored in ('bfloat16', 'int8') for filled in (1, 130)
    for peer in ('block by block', 'all places at once')
  ]  # fmt: skip
  assert [row['bytes'] for row in rows[::2]] == [64, 130 * 64, 48, 130 * 48]  # scales: 2 x 2 x 4
  assert all(0 < row['of_read_low'] <= row['of_read'] for row in rows) and len(table.rows) == 8


def test_all_places_at_once_are_what_a_token_reads():
  random = np.random.default_rng(0)
  query = jnp.asarray(random.standard_normal((1, 1, 4, 8), np.float32))
  kept = jnp.asarray(random.integers(-127, 128, (2, 1, 256, 16)), jnp.int8)
  scales = jnp.asarray(random.uniform(0.01, 0.02, (2, 1, 2, 256)), jnp.float32)
  for memory in (*kept, scales), (*kept.astype(jnp.float32) / 100, None):
    found = at_once(query, *memory, 130)
    np.testing.assert_allclose(found, attention.reference(query, *memory, 130), atol=1e-5)
