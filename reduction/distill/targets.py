"""A teacher's logits on a transfer set, computed once and kept: exact while inputs do not change.

On disk they are a .npy file that is mapped into memory, named after the digests of all that they
depend on; without a folder they stay in memory. Under augmentation there is nothing to keep.
"""

import functools
import logging
import pathlib

import numpy as np

from reduction import checkpoint, predict, tree
from reduction.net import Net

LOGGER = logging.getLogger('reduction')


def logits(net: Net, x, folder: pathlib.Path | None = None) -> np.ndarray:
  """Logits [R, n, classes], float32, of every replicate of net on x [n, ...].

  folder: where they are kept for the next call with the same net and x. Raises StorageError.
  """
  compute = functools.partial(predict.logits, net, x)
  if folder is None:
    return compute()
  variables = tree.digests(dict(params=net.params, stats=net.stats, masks=net.masks))
  name = tree.digest_of(dict(variables, module=repr(net.module), inputs=tree.digest(x)))
  return kept(folder / f'{name}.npy', compute)


def kept(path: pathlib.Path, compute) -> np.ndarray:
  """The array in path, mapped; computed and written, whole or not at all, where it is not there.

  Its digest stands beside it; a damaged file is computed again, with a warning.
  """
  beside = path.with_suffix('.digest')
  if path.is_file() and beside.is_file():
    try:
      found = np.load(path, mmap_mode='r')
      if tree.digest(found) == beside.read_text():
        return found
    except (OSError, ValueError):
      pass
    LOGGER.warning('%s is damaged: computed again', path)
  array = np.asarray(compute(), np.float32)
  with checkpoint.whole_file(path) as file:
    np.save(file, array)
  checkpoint.write_atomic(beside, tree.digest(array))
  return np.load(path, mmap_mode='r')
