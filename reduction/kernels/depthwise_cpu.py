"""Depthwise convolution on a CPU, in C++: see cpu/depthwise.cc."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from reduction.kernels import native


def ready(x, w) -> bool:
  """Whether it takes such arrays on this machine."""
  floats = x.dtype == w.dtype == jnp.float32
  return floats and jax.default_backend() == 'cpu' and native.ready('depthwise')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def native_form(x, w, stride, pad) -> jax.Array:
  """As `depthwise.shifted`, all of whose arguments are given: two of each."""
  sizes = [
    (n + sum(around) - k) // step + 1
    for n, k, step, around in zip(x.shape[1:3], w.shape, stride, pad)
  ]
  return _call('', (x, w), (len(x), *sizes, x.shape[3]), stride, pad)


def _forward(x, w, stride, pad):
  return native_form(x, w, stride, pad), (x, w)


def _backward(stride, pad, saved, g):
  x, w = saved
  return (
    _call('_of_images', (g, w), x.shape, stride, pad),
    _call('_of_kernel', (x, g), w.shape, stride, pad),
  )


native_form.defvjp(_forward, _backward)


def _call(what: str, given, shape, stride, pad) -> jax.Array:
  like = jax.ShapeDtypeStruct(shape, jnp.float32)
  call = jax.ffi.ffi_call(f'reduction_depthwise{what}', like, vmap_method='sequential')
  how = np.array([*stride, *(low for low, _ in pad)], np.int64)
  return call(*given, how=how, threads=native.threads())
