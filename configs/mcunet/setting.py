"""Spaces and steps that the configs of this folder share."""

from ml_collections import config_dict

DIGITS = dict(  # (4 + 16) ^ 2 = 400 networks for 8 x 8 images
  name='mcunet', stages=((16, 2, (1, 2)), (24, 2, (1, 2))), kernels=(3, 5), expansions=(2, 4),
  stem=(8, 3, 1), first=0, resolutions=(8,), widths=(1.0,), classes=10, channels=1,
)  # fmt: skip
CIFAR = dict(  # (4 + 16 + 64) ^ 3 = 592,704 networks for 32 x 32 images
  name='mcunet', stages=((16, 2, (1, 2, 3)), (32, 2, (1, 2, 3)), (64, 2, (1, 2, 3))),
  kernels=(3, 5), expansions=(2, 4), stem=(16, 3, 1), first=0, resolutions=(32,), widths=(1.0,),
  classes=10,
)  # fmt: skip


def adam(rate: float, steps: int) -> dict:
  """Adam whose rate falls to 0 along half a cosine."""
  return dict(name='adam', learning_rate=rate, cosine=steps)


def begin(title: str, data: dict, space: dict, steps: int, every: int, seeds=(0, 1, 2)):
  """A config with a supernet of a space as its first stage."""
  c = config_dict.ConfigDict()
  c.title, c.seeds, c.data = title, seeds, data
  c.model = dict(name='mlp', widths=(10,))  # the supernet takes its place
  c.stages = ('supernet',)
  c.supernet = dict(space=space, steps=steps, batch=64, every=every, random=2,
                    optimizer=adam(3e-3, steps))  # fmt: skip
  return c
