"""Numbers that may change with the step: config data that become `optax` schedules."""

import functools
import inspect
from collections.abc import Callable

import optax

from reduction.errors import did_you_mean, require

KNOWN = sorted(name for name in dir(optax) if name.endswith('_schedule'))


def schedule(value, name: str) -> float | Callable:
  """A number as it is, or `optax.<value['name']>(**rest)`: {'name': 'linear_schedule', ...}.

  name: what the number is, for messages. The same settings give the same object, so that programs
  compiled with it are found again. Raises UsageError.
  """
  if isinstance(value, int | float) and not isinstance(value, bool):
    return float(value)
  require(
    isinstance(value, dict) and 'name' in value,
    f"{name}={value!r} must be a number or a schedule: dict(name='linear_schedule', ...)",
  )
  settings = {k: v for k, v in value.items() if k != 'name'}
  chosen = value['name']
  require(chosen in KNOWN, f'{name}.name={chosen!r} is not in optax.{did_you_mean(chosen, KNOWN)}')
  known = inspect.signature(getattr(optax, chosen)).parameters
  for key in settings:
    require(key in known, f'optax.{chosen} has no setting {key!r}.{did_you_mean(key, known)}')
  for key, parameter in known.items():
    require(
      key in settings or parameter.default is not inspect.Parameter.empty,
      f'{name} needs {key!r}; see optax.{chosen}',
    )
  frozen = {key: _pairs(value, f'{name}.{key}') for key, value in settings.items()}
  return _made(chosen, tuple(sorted(frozen.items())))


def _pairs(value, name: str):
  """A setting by step, whose keys a config writes as strings, as pairs; others as they are."""
  if not isinstance(value, dict):
    return value
  good = all(str(step).isdecimal() for step in value)
  require(good, f'{name}={value!r} must have a number of steps for each key')
  return tuple(sorted((int(step), scale) for step, scale in value.items()))


@functools.lru_cache(maxsize=64)
def _made(name, settings):
  given = {k: dict(v) if isinstance(v, tuple) else v for k, v in settings}
  return getattr(optax, name)(**given)
