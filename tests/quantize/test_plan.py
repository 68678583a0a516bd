"""A plan apart from packed weights: applied in any scheme, kept in files, refused if it is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import DataError, MissingInput, UsageError
from reduction.qtensor import Scheme, dequantize, is_packed
from reduction.quantize import awq, inputs, plan
from reduction.quantize.calibrate import calibrate
from reduction.quantize.method import Method
from reduction.quantize.rtn import snapped
from tests.quantize.blocks import Block, filled

MODULE, METHOD = Block(), Method(Scheme(3, 8), 'awq', clip=True, stored='float32')


@pytest.fixture(scope='module')
def found():
  """(params, inputs, plan) of a block."""
  x = np.random.default_rng(0).normal(size=(4, 3, 16)).astype(np.float32) * np.arange(1, 17)
  params = filled(MODULE, x)
  by = inputs.find(MODULE, params, x)
  flat = dict(tree.named(params))
  return params, by, plan.search(flat, by, calibrate(MODULE, params, [x], by), METHOD)


def test_a_plan_has_what_its_method_searched(found):
  params, by, best = found
  shapes = {name: w.shape for name, w in tree.named(best)}
  scaled = [one for one in by if one.sources]
  assert {n for n in shapes if n.endswith('scale')} == {f'{i.linears[0]}/scale' for i in scaled}
  clipped = {n.removesuffix('/bound'): s for n, s in shapes.items() if n.endswith('bound')}
  # 16 rows are 2 groups of 8, 24 rows 3; queries and keys are not clipped
  assert clipped == dict(v=(2, 8), o=(2, 16), gate=(2, 24), up=(2, 24), down=(3, 16))
  assert any((scale != 1).any() for name, scale in tree.named(best) if name.endswith('scale'))
  plan.check(best, by, params)


def test_a_file_gives_the_same_bits(found, tmp_path):
  _, _, best = found
  plan.write(tmp_path / 'plan.npz', best)
  again = plan.read(tmp_path / 'plan.npz')
  assert tree.digests(again) == tree.digests(best)
  plan.write(tmp_path / 'empty.npz', {})
  assert plan.read(tmp_path / 'empty.npz') == {}


@pytest.mark.parametrize('scheme', [Scheme(3, 8), Scheme(4, 16, symmetric=True), Scheme(8, 12)])
def test_a_plan_is_applied_in_any_scheme(found, scheme):
  params, by, best = found
  flat, parts = dict(tree.named(params)), plan.by_path(best)
  new, error = plan.apply(flat, by, best, METHOD._replace(scheme=scheme, skip=('^q$',)))
  packed = {n for n, w in new.items() if is_packed(w)}
  assert packed == {f'{n}/kernel' for n in 'kvo'} | {f'{n}/kernel' for n in ('gate', 'up', 'down')}
  assert set(error.values()) == {None}  # without statistics nothing is known of outputs
  folded = awq.folded(flat, by, {n[:-6]: s for n, s in parts.items() if n.endswith('/scale')})
  assert all(np.array_equal(new[n], folded[n]) for n in folded if n not in packed)
  bound = jnp.repeat(parts['down/bound'], 8, 0)  # groups of the search, whatever the scheme's are
  cut = snapped(jnp.clip(folded['down/kernel'], -bound, bound), scheme)
  assert np.allclose(dequantize(new['down/kernel']), cut, atol=1e-6)


def test_folding_alone_changes_no_output(found):
  params, by, best = found
  x = jax.random.normal(jax.random.key(1), (2, 3, 16))
  new = tree.nest(plan.folded(dict(tree.named(params)), by, best))
  before, after = (MODULE.apply({'params': p}, x) for p in (params, new))
  assert np.allclose(before, after, rtol=1e-4, atol=1e-4)


def change(best, name, value):
  return tree.nest(plan.by_path(best) | {name: value})


@pytest.mark.parametrize(
  'name, value, message',
  [
    ('other/scale', np.ones(16), 'block/other/scale is no part of a plan for this model'),
    ('q/kernel', np.ones((16, 16)), 'q/kernel is no part of a plan'),
    ('q/scale', np.ones(15), r'q/scale \(15,\) does not fit this model; search it again'),
    ('q/scale', np.zeros(16), 'q/scale .* does not fit'),
    ('q/scale', np.full(16, np.nan), 'q/scale is no part'),
    ('k/scale', np.ones(16), 'k/scale .* does not fit'),  # its input is under q
    ('o/scale', np.arange(1.0, 17), 'o/scale .* does not fit'),  # two heads share each value head
    ('down/group', np.int32(16), r'down/bound \(3, 16\) does not fit'),
    ('down/group', np.int32(0), 'down/bound .* does not fit'),
    ('down/exponent', np.ones(2), 'down/exponent .* does not fit'),
    ('down/exponent', np.array('a'), 'down/exponent is no part'),
  ],
)
def test_a_plan_of_another_model_is_refused(found, name, value, message):
  params, by, best = found
  with pytest.raises(UsageError, match=message):
    plan.check(change(best, name, value), by, params, 'block/')


def test_a_file_that_holds_no_plan_is_refused(tmp_path):
  with pytest.raises(MissingInput, match=r'no plan in .*nowhere.npz; name the plan.npz'):
    plan.read(tmp_path / 'nowhere.npz')
  np.savez(tmp_path / 'odd.npz', **{'q/scale': np.ones(2), 'q/scale/bound': np.ones(2)})
  with pytest.raises(DataError, match='is no plan: arrays lie inside q/scale'):
    plan.read(tmp_path / 'odd.npz')
  (tmp_path / 'cut.npz').write_bytes((tmp_path / 'odd.npz').read_bytes()[:100])
  with pytest.raises(DataError, match='broken npz'):
    plan.read(tmp_path / 'cut.npz')
