"""Layers that the networks share: initialization, convolution, normalization, pooling."""

import functools

import flax.linen as nn
import jax

from reduction.kernels.conv import convolve

# Gaussian Glorot: N(0, 2 / (fan_in + fan_out)). Flax's glorot_normal cuts its tails at two sigma.
glorot = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')

INITIALIZERS = dict(
  glorot=glorot, lecun_normal=nn.initializers.lecun_normal(), he_normal=nn.initializers.he_normal()
)

Dense = functools.partial(nn.Dense, kernel_init=glorot)
Conv = functools.partial(nn.Conv, kernel_init=glorot, conv_general_dilated=convolve)
BatchNorm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


def max_pool(x: jax.Array) -> jax.Array:
  """The largest of each 2 x 2 block. x: [n, h, w, c], h and w even.

  Its gradient is shared by equal values; `nn.max_pool`'s goes to one of them, and takes 9 times as
  long on a CPU.
  """
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
