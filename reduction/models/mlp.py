"""Fully connected networks."""

import flax.linen as nn
import jax

# Gaussian Glorot: N(0, 2 / (fan_in + fan_out)). Flax's glorot_normal cuts its tails at two sigma.
glorot = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')


class MLP(nn.Module):
  """Dense layers 'fc1', 'fc2'... with relu, then the linear layer 'out'. x: [n, ...], flattened."""

  widths: tuple[int, ...]
  classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, classes]."""
    del train
    x = x.reshape(len(x), -1)
    for i, width in enumerate(self.widths):
      x = nn.relu(nn.Dense(width, kernel_init=glorot, name=f'fc{i + 1}')(x))
    return nn.Dense(self.classes, kernel_init=glorot, name='out')(x)


def mlp(*, widths: tuple[int, ...], classes: int = 10) -> MLP:
  """A multilayer perceptron with hidden layers of these widths."""
  return MLP(tuple(widths), classes)


def lenet(*, widths: tuple[int, ...] = (300, 100), classes: int = 10) -> MLP:
  """LeNet-300-100 (LeCun et al. 1998): 266,200 weights on 28 x 28 images of 10 classes."""
  return mlp(widths=widths, classes=classes)
