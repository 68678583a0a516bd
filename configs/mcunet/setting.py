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

WORDS = dict(  # (4 + 16) ^ 3 = 8,000 networks for 32 moments of 32 bands
  name='mcunet', stages=((16, 2, (1, 2)), (32, 2, (1, 2)), (48, 2, (1, 2))), kernels=(3, 5),
  expansions=(2, 4), stem=(16, 3, 2), first=0, resolutions=(32,), widths=(1.0,), classes=10,
  channels=1,
)  # fmt: skip
SEPARABLE = dict(  # DS-CNN's blocks, which only have kernels to choose: (2 + 4 + 8) ^ 3 = 2,744
  WORDS, stages=((32, 2, (1, 2, 3)), (64, 2, (1, 2, 3)), (96, 2, (1, 2, 3))), expansions=(1,),
)  # fmt: skip
FEW = dict(  # (9 + 81) ^ 2 = 8,100 networks, 0.2 to 1.9 M multiply-accumulates on 16 x 16 images
  CIFAR, stages=((16, 2, (1, 2)), (32, 2, (1, 2))), kernels=(1, 3, 5), expansions=(2, 4, 6),
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


def found(title: str = 'The best network that fits') -> dict:
  """The table of what `specialize` found."""
  return dict(
    title=title, kind='found', rows='method',
    values=('validation_accuracy', 'test_accuracy', 'macs', 'sram', 'flash', 'instructions',
            'energy_uj'),
    names=dict(energy_uj='energy (estimated, µJ)', sram='SRAM', flash='Flash'),
    note='With the weights of the supernet. Instructions: a sum of measured ones of its ops. '
         'Energy: of 8-bit integers, weights and activations on the chip.',
  )  # fmt: skip


def agreement() -> dict:
  """The table of how a supernet orders networks."""
  return dict(
    title='Order in the supernet and by itself', kind='agreement', rows='networks',
    values=('tau', 'tau_of_each', 'tau_of_macs', 'alone_least', 'alone_most'),
    names=dict(networks='{} networks'),
    note="Kendall's tau-b of accuracies on test images; 95 % interval over networks.",
  )  # fmt: skip


def trained(**names: str) -> dict:
  """The table of what a network is in the end, on its board. names: of the stages that wrote it."""
  return dict(
    title='Trained, on the board', kind='microcontroller', rows='at' if names else 'board',
    values=('float_accuracy', 'int8_accuracy', 'arena', 'ram', 'constants', 'flash',
            'instructions', 'energy_uj'),
    names=dict(at=names, arena='arena, B', ram='RAM, B', constants='constants, B',
               flash='Flash, B', energy_uj='energy (estimated, µJ)'),
    note='RAM: the arena and what the code keeps, without a stack. Flash: constants and code. '
         'Energy: of 8-bit integers, weights and activations on the chip.',
  )  # fmt: skip


def predicted() -> dict:
  """The table of how good a predictor of accuracies is."""
  return dict(
    title='The predictor of accuracies, on networks that it did not learn from', kind='predictor',
    rows='networks', values=('held_out', 'held_out_tau', 'held_out_error'),
    names=dict(networks='learned from {} networks', held_out='networks',
               held_out_tau="Kendall's tau", held_out_error='mean error of the accuracy'),
  )  # fmt: skip


def compared() -> dict:
  """The table of what was found beside random search's network or one of another family."""
  return dict(
    title='Accuracy beside the other, paired', kind='versus', rows=('net', 'base'),
    values=('accuracy_gain',),
    note='95 % interval over seeds and test images, drawn for both alike.',
  )  # fmt: skip
