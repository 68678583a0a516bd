"""Language models by the model_type of their config.json."""

from collections.abc import Callable
from typing import NamedTuple

from reduction.models import gpt_files, llama_files
from reduction.models.decoder_files import kind
from reduction.models.gpt import gpt
from reduction.models.llama import llama


class Family(NamedTuple):
  """How a family of models is made and read.

  make(**sizes) -> module; settings(config) -> sizes; shapes(sizes) -> {path: shape};
  weights(tensors, config, *, dtype) -> {path: array}, each read when asked for;
  places(config) -> {path: Place}.
  """

  make: Callable
  settings: Callable
  shapes: Callable
  weights: Callable
  places: Callable


def _family(make, files) -> dict[str, Family]:
  of = Family(make, files.settings, files.shapes, files.weights, files.places)
  return dict.fromkeys(files.FAMILIES, of)


FAMILIES = _family(llama, llama_files) | _family(gpt, gpt_files)


def family(config: dict) -> Family:
  """The family of a config.json. Raises UsageError, with those known, for another model_type."""
  return FAMILIES[kind(config, FAMILIES, 'reduction')]
