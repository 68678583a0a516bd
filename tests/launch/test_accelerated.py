"""The benchmark of packed products on an accelerator, here on whatever runs the tests."""

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.accelerated import _flat, _read, accelerated
from launch.benchmarks.sides import Session


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
