"""Configs in canonical form, and the functions that their sub-dicts call."""

import inspect
import json
import pathlib
from types import ModuleType

import ml_collections
import numpy as np

from reduction import checkpoint
from reduction.errors import UsageError, did_you_mean, require


def canonical(value, name: str = 'config'):
  """value as plain dicts, tuples, numbers and strings; what JSON gives back is the same again.

  Raises UsageError for NaN, infinity and values that JSON cannot hold.
  """
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, dict):
    return {str(k): canonical(v, f'{name}.{k}') for k, v in sorted(value.items())}
  if isinstance(value, list | tuple):
    return tuple(canonical(v, f'{name}[{i}]') for i, v in enumerate(value))
  if isinstance(value, float):
    require(np.isfinite(value), f'{name}={value} must be finite')
  allowed = isinstance(value, str | int | float | None)
  require(allowed, f'{name}={value!r} is a {type(value).__name__}: use numbers, strings, tuples')
  return value


def call(module: ModuleType, settings: dict, name: str, key: str = 'name', **offered):
  """`module.<settings[key]>(**rest)`, so that a default lives in the function alone.

  name: where settings stand in the config, for messages. offered: settings that are no part of the
  config, for a function that takes them; None offers nothing. Raises UsageError for an unknown
  function, a wrong or missing setting, or a value of another kind than the function's annotation.
  """
  function, settings = bound(module, settings, name, key)
  known = inspect.signature(function).parameters
  taken = {n: v for n, v in offered.items() if n in known and v is not None}
  return function(**{**settings, **taken})


def bound(module: ModuleType, settings: dict, name: str, key: str = 'name') -> tuple:
  """(function, arguments) that `call` would call, but for what is offered. Raises as it does."""
  settings = dict(settings)
  chosen = settings.pop(key, name)
  require(
    chosen in module.__all__ and callable(getattr(module, str(chosen), None)),
    f'config.{name}.{key}={chosen!r} is not in {module.__name__}.'
    f'{did_you_mean(str(chosen), module.__all__)}',
  )
  function = getattr(module, chosen)
  known = inspect.signature(function).parameters
  for setting, value in settings.items():
    if setting not in known:
      raise UsageError(f'config.{name} has no {setting!r}.{did_you_mean(setting, known)}')
    _check_kind(f'config.{name}.{setting}', value, known[setting].annotation)
  for setting, parameter in known.items():
    if parameter.default is inspect.Parameter.empty and setting not in settings:
      raise UsageError(f'config.{name} needs {setting!r}; see {function.__module__}.{chosen}')
  return function, settings


def _check_kind(name, value, annotation):
  kinds = {int: int, float: (int, float), str: str, bool: bool, dict: dict}.get(annotation)
  good = kinds is None or (isinstance(value, kinds) and not (
    isinstance(value, bool) and annotation in (int, float)))
  require(good, f'{name}={value!r} must be {getattr(annotation, "__name__", annotation)}')


def differences(old: dict, new: dict, name: str = 'config') -> list[str]:
  """One line for each value that differs: 'config.lottery.rounds: 5 there, 7 here'."""
  lines = []
  for key in sorted(old.keys() | new.keys()):
    a, b, at = old.get(key), new.get(key), f'{name}.{key}'
    if isinstance(a, dict) and isinstance(b, dict):
      lines += differences(a, b, at)
    elif a != b:
      lines.append(f'{at}: {a!r} there, {b!r} here')
  return lines


# what only the report reads; it may change under a run
SHOWN = ('title', 'figures', 'tables', 'paper')


def claim(workdir: pathlib.Path, config: dict):
  """Writes config.json into workdir; refuses a workdir that was used with another config."""
  path = workdir / 'config.json'
  if path.exists():
    before = canonical(checkpoint.read_json(path))
    run = lambda c: {key: value for key, value in c.items() if key not in SHOWN}
    changed = differences(run(before), run(config))
    require(
      not changed,
      f'{workdir} was used with another config: {"; ".join(changed)}. '
      'Use a new --workdir, or remove this one',
    )
  checkpoint.write_atomic(path, json.dumps(config, indent=2) + '\n')


def claim_data(workdir: pathlib.Path, **facts):
  """Writes data.json, which says what data a run has seen; refuses to go on with other data."""
  path = workdir / 'data.json'
  if path.exists():
    changed = differences(checkpoint.read_json(path), facts, 'data')
    require(
      not changed,
      f'{workdir} was begun on other data: {"; ".join(changed)}. Use a new --workdir',
    )
  checkpoint.write_atomic(path, json.dumps(facts, indent=2) + '\n')
