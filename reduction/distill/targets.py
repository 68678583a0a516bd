"""What teachers say of a transfer set, computed once and kept: exact while inputs do not change.

On disk they are a .npy file that is mapped into memory, named after the digests of all that they
depend on; without a folder they stay in memory. Under augmentation there is nothing to keep.
"""

import functools
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from reduction import checkpoint, predict, tree
from reduction.net import Net

LOGGER = logging.getLogger('reduction')


def logits(net: Net, x, folder: pathlib.Path | None = None) -> np.ndarray:
  """Logits [R, n, classes], float32, of every replicate of net on x [n, ...].

  folder: where they are kept for the next call with the same net and x. Raises StorageError.
  """
  return kept(functools.partial(predict.logits, net, x), folder, [net], x)


def name(nets: Sequence[Net], x, **settings) -> str:
  """A digest of all that what nets say of x depends on, settings among it."""
  depends = {key: repr(value) for key, value in settings.items()}
  for i, net in enumerate(nets):
    variables = tree.digests(dict(params=net.params, stats=net.stats, masks=net.masks))
    depends[f'net{i}'] = tree.digest_of(dict(variables, module=repr(net.module)))
  return tree.digest_of(dict(depends, inputs=tree.digest(x)))


def kept(compute, folder: pathlib.Path | None, nets: Sequence[Net], x, **settings) -> np.ndarray:
  """What compute returns of nets, x and settings: from folder, mapped, once it is there.

  Written whole or not at all. Its digest stands beside it; a damaged file is computed again, with a
  warning. Raises StorageError.
  """
  if folder is None:
    return compute()
  path = folder / f'{name(nets, x, **settings)}.npy'
  beside = path.with_suffix('.digest')
  if path.is_file() and beside.is_file():
    try:
      found = np.load(path, mmap_mode='r')
      if tree.digest(found) == beside.read_text():
        return found
    except (OSError, ValueError):
      pass
    LOGGER.warning('%s is damaged: computed again', path)
  array = compute()
  with checkpoint.whole_file(path) as file:
    np.save(file, array)
  checkpoint.write_atomic(beside, tree.digest(array))
  return np.load(path, mmap_mode='r')
