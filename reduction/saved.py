"""Nets on disk: what a stage returned, for other runs and for use.

A folder holds `net.msgpack`, the digest and the variables in Flax's format, and `net.json`, the
module as data: the name of its class, its fields, and how weights are packed.
"""

import dataclasses
import functools
import json
import math
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType

import jax
import msgpack
from flax import serialization

from reduction import checkpoint, tree
from reduction.errors import MissingInput, UsageError
from reduction.net import Net
from reduction.qtensor import QTensor, Scheme, is_packed

VARIABLES, MODULE = 'net.msgpack', 'net.json'
MOST = 2**31  # bytes
KIND, OPAQUE = 'class', 'opaque'  # keys of a described module beside its fields
WRAPPERS: dict[str, type] = {}  # of modules, by name, which layers above add to those of models


def describe(module) -> dict:
  """A Linen module as JSON holds it: {'class': 'MLP', 'opaque': [], 'widths': [300, 100], ...}.

  opaque: names of fields that are no plain data, such as a function.
  """
  names = [f.name for f in dataclasses.fields(module) if f.name not in ('parent', 'name')]
  fields = {name: getattr(module, name) for name in names}
  plain = {name: _plain(value) for name, value in fields.items()}
  opaque = sorted(name for name, value in plain.items() if value is Ellipsis)
  kept = {name: value for name, value in plain.items() if name not in opaque}
  return {KIND: type(module).__name__, OPAQUE: opaque, **kept}


def _plain(value):
  """value as JSON holds it, modules inside described; ... where it cannot."""
  if isinstance(value, list | tuple):
    inside = [_plain(x) for x in value]
    return ... if ... in inside else inside
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return describe(value)
  return value if isinstance(value, str | int | float | bool | None) else ...


def build(described: dict, models: ModuleType):
  """The module that `describe` gave. models: holds its class, in one of its files, or WRAPPERS do.

  Raises UsageError for a class that models lacks and for one with opaque fields.
  """
  settings = {k: _built(v, models) for k, v in described.items()}
  name, opaque = settings.pop(KIND), settings.pop(OPAQUE)
  within = models.__name__ + '.'
  places = [models, *(part for at, part in sys.modules.items() if at.startswith(within))]
  found = next((vars(place)[name] for place in places if name in vars(place)), WRAPPERS.get(name))
  if found is None or opaque:
    what = f'fields {", ".join(opaque)} of {name}' if opaque else f'class {name}'
    raise UsageError(f'{models.__name__} cannot make the {what}; read the net with `module=`')
  return found(**settings)


def _built(value, models):
  if isinstance(value, dict):
    return build(value, models)
  return tuple(_built(x, models) for x in value) if isinstance(value, list) else value


def fits(net: Net) -> bool:
  """Whether Flax's format can hold the net; larger ones go into model folders."""
  return sum(math.prod(w.shape) * w.dtype.itemsize for w in tree.leaves(net)) < MOST


def write(folder: pathlib.Path, net: Net):
  """Writes net, whole or not at all, for an older one in folder. Raises StorageError."""
  variables = dict(params=net.params, stats=net.stats, masks=net.masks)
  variables = tree.map(lambda w: w, variables)  # in the order of names
  packed = {
    path: dict(dataclasses.asdict(leaf.scheme), rows=leaf.rows)
    for path, leaf in tree.named(net.params, is_leaf=is_packed)
    if is_packed(leaf)
  }
  with checkpoint.whole_folder(folder) as unfinished:
    checkpoint.seal(unfinished / VARIABLES, _encoded(serialization.to_state_dict(variables)))
    described = dict(module=describe(net.module), packed=packed)
    (unfinished / MODULE).write_text(json.dumps(described))


def _encoded(state) -> Iterator[bytes]:
  """state in Flax's format, a leaf at a time."""
  if not isinstance(state, dict):
    yield serialization.msgpack_serialize(state if state is None else tree.to_host(state))
    return
  yield msgpack.Packer().pack_map_header(len(state))
  for name, inside in state.items():
    yield msgpack.packb(name)
    yield from _encoded(inside)


def read(folder: pathlib.Path, models: ModuleType, module=None) -> Net:
  """The net in folder. models: where the module's class is looked for, unless module is given.

  Raises MissingInput where there is none, DataError where it is damaged.
  """
  path = folder / VARIABLES
  if not path.is_file():
    raise MissingInput(f'no net in {folder}: {path} is not there')
  body = checkpoint.unsealed(path)
  described = checkpoint.read_json(folder / MODULE)
  if module is None:
    module = build(described['module'], models)
  variables = jax.tree.map(jax.numpy.asarray, serialization.msgpack_restore(body))
  for place, scheme in described['packed'].items():
    *parents, last = place.split('/')
    at = functools.reduce(dict.__getitem__, parents, variables['params'])
    rows = scheme.pop('rows')
    at[last] = QTensor(**at[last], scheme=Scheme(**scheme), rows=rows)
  return Net(module, **variables)
