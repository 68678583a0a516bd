"""Every search is a fold: stopped anywhere, it goes on to the rows of one that was not stopped."""

import pytest

from reduction import fold, models, stages
from reduction.net import create
from reduction.run import Run, chain

SPACE = dict(
  name='mcunet', stages=((8, 4, (1, 2)),), kernels=(1, 3), expansions=(2, 3), stem=(8, 3, 1),
  first=0, resolutions=(8,), widths=(1.0,), classes=10, channels=1,
)  # fmt: skip
SHORT = dict(steps=20, batch=50, every=10, optimizer=dict(name='adam', learning_rate=1e-2))
CHOICE = models.choice(operations=('skip', 'conv1'), layers=2, width=4)
TINYNAS = stages.tinynas(
  space=dict(name='mcunet', resolutions=(48, 96), widths=(0.2, 0.5)), boards=('stm32f746',),
  samples=10, attempts=500,
)  # fmt: skip


def specialized():
  limits = dict(sram=10**6, flash=10**6, population=6, generations=2)
  return chain(
    supernet=stages.supernet(space=SPACE, random=1, **SHORT),
    rank=stages.rank(space=SPACE, networks=3, **SHORT),
    specialize=stages.specialize(space=SPACE, **limits),
  )


def shrunk():
  return stages.supernet(space=SPACE, random=1, phases=('largest', 'kernel', 'expansion'),
                         transform=True, **SHORT)  # fmt: skip


def predicted():
  limits = dict(sram=10**6, flash=10**6, population=6, generations=1, beside=False)
  return chain(
    supernet=stages.supernet(space=SPACE, random=1, **SHORT),
    specialize=stages.specialize(space=SPACE, predicted=12, **limits),
  )


def compared():
  limits = dict(sram=10**6, flash=10**6)
  return chain(
    supernet=stages.supernet(space=SPACE, random=1, **SHORT),
    finalists=stages.finalists(
      space=SPACE, limits=limits, networks=2, population=4, generations=1, **SHORT
    ),
  )


def chosen():
  return stages.darts(methods=('darts', 'darts2', 'ppo'), targets=(0.5,), repeats=1, trials=6,
                      **SHORT)  # fmt: skip


def simple():
  space = dict(pairs=(0, 1), layers=(0, 1), filters=(4, 8), units=(8, 16))
  limits = dict(sram=10**4, flash=10**4, population=3, generations=1)
  return stages.plain(space=space, **limits, **SHORT)


def ended(stage, module, digits, workdir=None):
  """The rows of a run, without how long it took."""
  run = Run(digits, (0, 1), workdir, save_every=0)
  stage(create(module, run.key('init', 0), digits.train.x[:1]), run)
  return [{k: v for k, v in row.items() if 'seconds' not in k} for row in run.rows]


SMALL = models.mobilenetv2(stages=((1, 8, 1), (2, 8, 1)), strides=(1, 1, 2), head=0)


def grown():
  return stages.compound(resolution=4, phis=(1.0,), step=1.0, **SHORT)


@pytest.mark.parametrize(
  'make, module, points',
  [
    (lambda: TINYNAS, CHOICE, ('spaces:1',)),
    pytest.param(specialized, CHOICE, ('train:0', 'train:0', 'generations:0', 'random:0'),
                 marks=pytest.mark.slow),
    pytest.param(shrunk, CHOICE, ('train-largest:0', 'train-expansion:0'), marks=pytest.mark.slow),
    pytest.param(predicted, CHOICE, ('predicted:0', 'generations:0'), marks=pytest.mark.slow),
    pytest.param(compared, CHOICE, ('train:0', 'generations:0', 'scored:0', 'train:0'),
                 marks=pytest.mark.slow),
    pytest.param(grown, SMALL, ('train:0', 'train:0'), marks=pytest.mark.slow),
    pytest.param(simple, CHOICE, ('train:0', 'generations:0', 'random:0'), marks=pytest.mark.slow),
    pytest.param(chosen, CHOICE, ('truth:0', 'train:0', 'policy:3'), marks=pytest.mark.slow),
  ],
)  # fmt: skip
def test_a_search_that_stops_goes_on_to_the_same_rows(
  make, module, points, digits, tmp_path, monkeypatch
):
  want, left, seen = ended(make(), module, digits), list(points), []

  def stops(name, index):
    seen.append(f'{name}:{index}')
    if left and seen[-1] == left[0]:
      left.pop(0)
      raise KeyboardInterrupt

  monkeypatch.setattr(fold, '_crash_here', stops)
  for point in points:
    with pytest.raises(KeyboardInterrupt):
      ended(make(), module, digits, tmp_path)
    assert seen[-1] == point
  assert ended(make(), module, digits, tmp_path) == want != []
