"""Linears that read the same input give what they give apart, in fewer products."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reduction import tree
from reduction.errors import UsageError
from reduction.kernels import int4_cpu, int4_gpu, int4_tpu, native
from reduction.models.gpt import gpt
from reduction.models.llama import llama
from reduction.models.merged import Part, is_kept, merged
from reduction.models.served import Served
from reduction.qtensor import Scheme, is_packed
from reduction.quantize.rtn import quantize

SIZES = dict(layers=1, width=64, heads=4, inner=96, vocabulary=128, positions=16)
TOKENS = np.random.default_rng(0).integers(0, 128, (2, 5)).astype(np.int32)
LLAMA = llama(**SIZES, kv_heads=2, bias=True)


FOUR = Scheme(4, 32)


def packed(module, scheme=FOUR, other=None):
  """Its params, linears of the blocks packed; other: (the end of paths, their scheme)."""
  params = dict(tree.named(module.init(jax.random.key(0), TOKENS)['params']))
  for path, w in params.items():
    if path.startswith('layer') and path.endswith('kernel'):
      own = other[1] if other and path.endswith(other[0]) else scheme
      params[path] = quantize(3 * w, own) if own else 3 * w
    elif path.endswith('bias'):
      params[path] = w + np.random.default_rng(1).normal(size=w.shape).astype(np.float32)
  return tree.nest(params)


def logits(module, params):
  return Served(module).apply({'params': params}, TOKENS)


def products(module, params):
  """How many weights the net has in its blocks."""
  return sum(is_packed(w) for w in jax.tree.leaves(params, is_leaf=is_packed))


@pytest.mark.parametrize(
  'module, before, after', [(LLAMA, 7, 4), (gpt(**SIZES), 6, 4)], ids=['llama', 'gpt']
)
@pytest.mark.parametrize('scheme', [Scheme(4, 32), Scheme(3, 'channel'), Scheme(8, 64, True)])
def test_merged_linears_give_what_they_give_apart(module, before, after, scheme):
  apart = packed(module, scheme)
  together = merged(apart)
  assert (products(module, apart), products(module, together)) == (before, after)
  size = lambda params: sum(w.nbytes for w in jax.tree.leaves(params))
  assert size(apart) == size(together)
  wanted = logits(module, apart)
  np.testing.assert_allclose(logits(module, together), wanted, atol=1e-5 * abs(wanted).max())


KERNELS = dict(cpu=int4_cpu, tpu=int4_tpu, gpu=int4_gpu)


@pytest.mark.parametrize('platform', KERNELS)
def test_merged_linears_in_the_order_of_each_kernel(platform, monkeypatch):
  kernel = KERNELS[platform]
  if platform == 'cpu' and not native.ready():
    pytest.skip('no C++ compiler')
  if platform == 'gpu':  # its emulator comes with JAX 0.11
    monkeypatch.setattr(kernel, 'matmul', lambda x, w: x @ kernel.dequantized(w))
  if platform == 'tpu':
    interpreted = functools.partial(kernel.matmul, interpret=True)
    monkeypatch.setattr(kernel, 'matmul', interpreted)
  module = LLAMA if platform != 'cpu' else llama(**SIZES | dict(inner=128), kv_heads=2)
  apart = packed(module, Scheme(4, 64 if platform == 'cpu' else 32))
  own = lambda params: jax.tree.map(
    lambda w: kernel.prepacked(w) if is_packed(w) else w, params, is_leaf=is_packed
  )
  wanted = logits(module, own(apart))
  found = logits(module, own(merged(apart)))
  np.testing.assert_allclose(found, wanted, atol=1e-5 * abs(wanted).max())


@pytest.mark.parametrize('other, left', [
  (('up/kernel', Scheme(3, 32)), 2), (('key/kernel', Scheme(4, 32, True)), 1),
  (('value/kernel', None), 1), (('kernel', Scheme(4, 'tensor')), 0),
])  # fmt: skip
def test_weights_that_differ_stay_apart(other, left):
  apart = packed(LLAMA, other=other)
  together = merged(apart)
  parts = jax.tree.leaves(together, is_leaf=is_kept)
  assert sum(isinstance(w, Part) for w in parts) == left
  wanted = logits(LLAMA, apart)
  np.testing.assert_allclose(logits(LLAMA, together), wanted, atol=1e-5 * abs(wanted).max())


def test_what_reads_another_input_is_found():
  class Crossed(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(8, name='gate')(x) * nn.Dense(8, name='up')(2 * x)

  x = jnp.ones((1, 32))
  params = Crossed().init(jax.random.key(0), x)['params']
  params = {name: dict(part, kernel=quantize(part['kernel'], Scheme(4, 32)))
            for name, part in params.items()}  # fmt: skip
  with pytest.raises(UsageError, match='up and gate read different inputs'):
    Served(Crossed()).apply({'params': merged(params)}, x)
