"""Four host devices, the CPU unless asked otherwise, a compile cache that outlives the session."""

import gc
import importlib.metadata
import os
import pathlib
import resource
import tempfile

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# small programs run once: what compiles them fast is faster than what makes them fast
FLAGS = '--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 '
FLAGS += '--xla_cpu_parallel_codegen_split_count=1'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # later ones stop at this flag
  FLAGS += ' --xla_cpu_use_fusion_emitters=false'
os.environ.setdefault('XLA_FLAGS', FLAGS)
CACHE = pathlib.Path(os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(tempfile.gettempdir()) / f'reduction-{os.getuid()}')
))  # fmt: skip
LARGE = 2 * 2**20  # KiB
CACHE.mkdir(mode=0o700, exist_ok=True)  # it holds executables: for this user alone
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

import jax  # noqa: E402 (after the environment is set)
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from reduction import models  # noqa: E402
from reduction.net import create  # noqa: E402
from reduction.run import Run  # noqa: E402
from tests import decoders, pickles, recordings, sentences  # noqa: E402
from tests.launcher import Launcher  # noqa: E402

pickles.watch()


def pytest_addoption(parser):
  parser.addoption('--platform', default='cpu', help='Where tests marked device run.')


def pytest_configure(config):
  platform = config.getoption('--platform')
  if platform != 'cpu':
    jax.config.update('jax_platforms', {'gpu': 'cuda'}.get(platform, platform))


def pytest_collection_modifyitems(config, items):
  if config.getoption('--platform') == 'cpu':
    for item in items:
      if 'device' in item.keywords:
        item.add_marker(pytest.mark.skip(reason='needs an accelerator: --platform=gpu'))


def pytest_collection_finish():
  """What is imported stays: collections of garbage need not look at it again and again."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def no_pickles():
  """Fails a test in which the project opened one, whatever caught the error."""
  yield
  assert not pickles.opened


@pytest.fixture(scope='module', autouse=True)
def no_more_than_needed():
  """Lets compiled programs go after each file once the process has grown large."""
  yield
  if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > LARGE:
    jax.clear_caches()


@pytest.fixture(scope='session')
def digits():
  """The quickstart's data: real, and inside an installed package."""
  from reduction import data

  return data.digits()


@pytest.fixture(scope='session')
def spoken(tmp_path_factory):
  """A data directory of recorded tones that stand for spoken digits."""
  root = tmp_path_factory.mktemp('speech')
  recordings.write(root)
  return root


@pytest.fixture(scope='session')
def texts(tmp_path_factory):
  """A data directory of made-up film reviews and a tiny BERT that reads them."""
  root = tmp_path_factory.mktemp('texts')
  sentences.write(root)
  return root


@pytest.fixture(scope='session')
def decoder(tmp_path_factory):
  """A data directory of a tiny language model, 'tiny', and 'text.txt' of its words."""
  root = tmp_path_factory.mktemp('decoder')
  decoders.write(root)
  return root


@pytest.fixture(scope='session')
def tiny(decoder):
  """(a tiny language model as it is opened, passages of its words)"""
  return decoders.model_and_text(decoder)


@pytest.fixture(scope='session')
def module():
  """A network small enough for tests."""
  return models.mlp(widths=(24, 12))


@pytest.fixture
def fresh(digits, module):
  """fresh(seeds, workdir) -> (net, run) that nothing has touched."""

  def make(seeds=(0, 1), workdir=None, **settings):
    run = Run(digits, seeds, workdir, **settings)
    return create(module, run.key('init', 0), digits.train.x[:1]), run

  return make


@pytest.fixture
def same():
  """same(a, b): whether two trees are equal bit for bit."""

  def equal(a, b):
    both = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
      np.array_equal(np.asarray(x), np.asarray(y)) for x, y in both
    )

  return equal


@pytest.fixture(scope='session')
def launch():
  """launch('--config=...', ...) -> Result of `python -m launch.run` in a child."""
  launcher = Launcher()
  yield launcher
  launcher.close()
