"""Tokens taken one after another, remembering, give what the whole text gives."""

import functools

import jax
import numpy as np
import pytest

from reduction.errors import UsageError
from reduction.models import memory
from reduction.models.gpt import gpt
from reduction.models.llama import llama

SIZES = dict(layers=2, width=32, heads=4, inner=48, vocabulary=61, positions=300)
MODELS = dict(
  llama=llama(**SIZES, kv_heads=2, head_norm=True, tied=True), gpt=gpt(**SIZES, activation='relu')
)  # fmt: skip


@functools.cache
def trained(name):
  """(module, params, tokens, logits of the whole text)."""
  module = MODELS[name]
  tokens = np.random.default_rng(0).integers(0, 61, (2, 150)).astype(np.int32)
  params = jax.jit(module.init)(jax.random.key(0), tokens)['params']
  params = jax.tree.map(lambda w: 2 * w, params)  # so that attention has something to choose
  return module, params, tokens, jax.jit(module.apply)({'params': params}, tokens)


def logits(module, params, tokens, cuts, stored):
  """The logits of every token, given in parts that end at cuts."""

  @jax.jit
  def step(kept, part, place):
    variables = {'params': params, 'memory': memory.at(kept, place)}
    out, changed = module.apply(variables, part, mutable='memory')
    return out, changed['memory']

  kept, found = memory.empty(module, 2, 150, stored), []
  for start, end in zip([0, *cuts], [*cuts, 150]):
    out, kept = step(kept, tokens[:, start:end], start)
    found.append(out)
  return np.concatenate(found, 1)


@pytest.mark.parametrize('name', MODELS)
@pytest.mark.parametrize(
  'stored, most', [('float32', 1e-5), ('bfloat16', 0.02), ('int8', 0.04)]
)  # of the largest logit
def test_parts_give_what_the_whole_gives(name, stored, most):
  module, params, tokens, whole = trained(name)
  found = logits(module, params, tokens, (100, 101, 102, 131, 149), stored)
  assert abs(found - whole).max() < most * abs(whole).max()


@pytest.mark.parametrize('name', MODELS)
def test_what_was_filled_up_is_not_seen(name):
  module, params, tokens, whole = trained(name)
  wrong = np.concatenate([tokens[:, :40], np.full((2, 24), 7, np.int32)], 1)  # 40 tokens in 64
  kept = memory.empty(module, 2, 150)
  apply = jax.jit(module.apply, static_argnames='mutable')
  _, changed = apply({'params': params, 'memory': kept}, wrong, mutable='memory')
  again = {'params': params, 'memory': memory.at(changed['memory'], 40)}
  found, _ = apply(again, tokens[:, 40:50], mutable='memory')
  np.testing.assert_allclose(found, whole[:, 40:50], atol=1e-5 * float(abs(whole).max()))


def test_a_memory_takes_whole_blocks_and_a_quarter_in_int8():
  module = MODELS['llama']
  floats, bytes_ = (memory.empty(module, 1, 129, s) for s in ('float32', 'int8'))
  assert memory.places(floats) == memory.places(bytes_) == 256
  size = lambda kept: sum(x.nbytes for x in jax.tree.leaves(kept) if x.ndim)
  numbers = 2 * 2 * 256 * 2 * 8  # layers, keys and values, places, heads, units
  assert size(floats) == 4 * numbers and size(bytes_) == numbers + 4 * numbers // 8


def test_another_type_is_refused():
  with pytest.raises(UsageError, match="stored='int4' must be one of"):
    memory.empty(MODELS['gpt'], 1, 10, 'int4')
