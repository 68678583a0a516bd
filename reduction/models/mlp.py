"""Fully connected networks."""

import flax.linen as nn
import jax

from reduction.errors import did_you_mean, require
from reduction.models.layers import INITIALIZERS, Dense


class MLP(nn.Module):
  """Dense layers 'fc1', 'fc2'... with relu, then the linear layer 'out'. x: [n, ...], flattened.

  dropout, input_dropout: the share of each hidden layer's units, and of the inputs, that a training
  step leaves out. initializer: how weights begin, of `layers.INITIALIZERS`.
  """

  widths: tuple[int, ...]
  classes: int
  dropout: float = 0.0
  input_dropout: float = 0.0
  initializer: str = 'glorot'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Logits [n, classes]."""
    x = x.reshape(len(x), -1)
    begins = dict(kernel_init=INITIALIZERS[self.initializer])
    if self.input_dropout:
      x = nn.Dropout(self.input_dropout, deterministic=not train)(x)
    for i, width in enumerate(self.widths):
      x = nn.relu(Dense(width, name=f'fc{i + 1}', **begins)(x))
      if self.dropout:
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return Dense(self.classes, name='out', **begins)(x)


def mlp(
  *,
  widths: tuple[int, ...],
  classes: int = 10,
  dropout: float = 0.0,
  input_dropout: float = 0.0,
  initializer: str = 'glorot',
) -> MLP:
  """A multilayer perceptron with hidden layers of these widths."""
  for name, share in dict(dropout=dropout, input_dropout=input_dropout).items():
    require(0 <= share < 1, f'{name}={share} must lie in [0, 1)')
  require(
    initializer in INITIALIZERS,
    f'{initializer=} is unknown.{did_you_mean(initializer, INITIALIZERS)}',
  )
  return MLP(tuple(widths), classes, dropout, input_dropout, initializer)


def lenet(*, widths: tuple[int, ...] = (300, 100), classes: int = 10) -> MLP:
  """LeNet-300-100 (LeCun et al. 1998): 266,200 weights on 28 x 28 images of 10 classes."""
  return mlp(widths=widths, classes=classes)
