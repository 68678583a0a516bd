"""Weights of a file, each read when asked for, and the order of rotated rows."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from reduction.errors import DataError


class Tensors(Mapping):
  """Weights by name, from functions that read one. Raises DataError where one is not finite."""

  def __init__(self, path: Path, readers: dict[str, Callable[[], np.ndarray]]):
    self._path, self._readers = path, readers

  def __getitem__(self, name: str) -> np.ndarray:
    array = self._readers[name]()
    if not np.isfinite(array).all():
      raise DataError(f'{self._path}: {name} holds NaN or infinity; fetch the file again')
    return array

  def __contains__(self, name) -> bool:
    return name in self._readers  # a Mapping's own would read it

  def __iter__(self) -> Iterator[str]:
    return iter(self._readers)

  def __len__(self) -> int:
    return len(self._readers)


def halves(w: np.ndarray, heads: int) -> np.ndarray:
  """Rows of queries or keys, [heads * size, ...], from pairs (2 i, 2 i + 1) to (i, i + size / 2).

  A head of rows [0, 1, 2, 3] becomes [0, 2, 1, 3]. Llama's own files turn neighbors together,
  Hugging Face's the two halves. heads must divide the rows in even parts.
  """
  return w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def pairs(w: np.ndarray, heads: int) -> np.ndarray:
  """The way back from `halves`."""
  return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
