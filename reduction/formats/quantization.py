"""The `quantization_config` of a model's config.json, written and read, and the layers it is of."""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError, UserError, did_you_mean, require
from reduction.formats import awq, compressed, gptq
from reduction.formats.packing import Linear, dequantized, known_group
from reduction.formats.tensors import Tensors

GPTQ = {'gptq': 1, 'gptq_v2': 2}
FORMATS = 'awq-gemm', 'awq-gemv', *GPTQ, 'compressed-tensors'
PARTS = (
  'qweight', 'qzeros', 'scales', 'g_idx', 'weight_packed', 'weight_scale', 'weight_zero_point',
  'weight_shape', 'weight_g_idx',
)  # fmt: skip


class Packing(NamedTuple):
  """How the layers of a model folder are packed.

  format: of `FORMATS`. group: a number of rows, or 'channel' for all of them.
  """

  format: str
  bits: int
  group: int | str
  symmetric: bool


def pack(packing: Packing, layer: Linear) -> dict:
  """The tensors of a layer, by their last name. Raises UsageError for what the format lacks."""
  known(packing)
  codes, scale, zero, index = layer
  require(
    packing.symmetric == (zero is None),
    f'zero points are {"not for" if packing.symmetric else "needed by"} {packing}',
  )
  if packing.format in GPTQ:
    how = dict(index=index, version=GPTQ[packing.format])
    return gptq.pack(codes, scale, zero, packing.bits, packing.group, **how)
  require(index is None, f'{packing.format} keeps rows in order; use gptq_v2 for act order')
  if packing.format == 'compressed-tensors':
    return compressed.pack(codes, scale, zero, packing.bits, packing.group)
  return awq.pack(codes, scale, zero, packing.bits, packing.group, version=packing.format[4:])


def unpack(packing: Packing, tensors: Mapping) -> Linear:
  """The layer of those tensors, by their last name; zero is None where packing is symmetric.

  Raises DataError where they are not of this packing, UsageError where it is unknown.
  """
  known(packing)
  form, bits, group, symmetric = packing
  if form in GPTQ:
    layer = gptq.unpack(tensors, bits, group, version=GPTQ[form])
  elif form == 'compressed-tensors':
    layer = compressed.unpack(tensors, bits, group)
  else:
    layer = awq.unpack(tensors, bits, group, version=form[4:])
  if not symmetric:
    if layer.zero is None:
      raise DataError(f'{packing} needs zero points and the layer has none')
    return layer
  middle = 2 ** (bits - 1)
  if layer.zero is not None and (layer.zero != middle).any():
    hint = '; these may be gptq_v2' if form == 'gptq' and (layer.zero == middle + 1).all() else ''
    raise DataError(f'{packing} has zero points other than {middle}{hint}')
  return layer._replace(zero=None)


class Quantized(Tensors):
  """Weights by name of a folder whose layers are packed: floats under their '.weight' too.

  layers: the names of the packed ones, 'model.layers.0.mlp.up_proj'. Raises UsageError or DataError
  where the parts of one are none of its packing.
  """

  def __init__(self, path: Path, tensors: Mapping[str, np.ndarray], packing: Packing):
    mark = '.weight_packed' if packing.format == 'compressed-tensors' else '.qweight'
    self.layers = {name.removesuffix(mark) for name in tensors if name.endswith(mark)}
    self.packing, self._parts = packing, {layer: {} for layer in self.layers}
    self.linear = functools.lru_cache(maxsize=1)(self._linear)  # its parts are asked for in turn
    readers = {}
    for name in tensors:
      layer, _, last = name.rpartition('.')
      within = layer in self.layers and last in PARTS
      of, key = (self._parts[layer], last) if within else (readers, name)
      of[key] = functools.partial(tensors.__getitem__, name)
    floats = lambda layer: dequantized(self.linear(layer), packing.bits).T
    readers |= {f'{layer}.weight': functools.partial(floats, layer) for layer in self.layers}
    super().__init__(path, readers)

  def _linear(self, layer: str) -> Linear:
    """The packed layer of that name."""
    try:
      return unpack(self.packing, {last: read() for last, read in self._parts[layer].items()})
    except UserError as error:
      raise type(error)(f'{self._path}: {layer}: {error}') from error

  def in_order(self, layer: str) -> bool:
    """Whether neighboring rows share a scale; not so in act order."""
    parts = self._parts[layer]
    return not any((np.diff(parts[i]()) < 0).any() for i in ('g_idx', 'weight_g_idx') if i in parts)


def known(packing: Packing):
  """Raises UsageError unless there are such layers."""
  form, bits, group, symmetric = packing
  known_group(group)
  require(form in FORMATS, f'format {form!r} is unknown.{did_you_mean(str(form), FORMATS)}')
  if form in GPTQ:
    gptq.known(GPTQ[form], bits)
  elif form == 'compressed-tensors':
    compressed.known(bits)
  else:
    awq.known(form[4:], bits)
    require(not symmetric, f'{form} has a zero point for each group; give 8 everywhere')


def settings(packing: Packing, *, skip: Iterable[str] = ('lm_head',), ordered=False) -> dict:
  """The quantization_config of a model whose linear layers are packed so.

  skip: full names of the linear layers that are not; readers of AWQ look for them within names.
  ordered: whether layers have an index (act order), which gptq alone holds. Raises UsageError.
  """
  known(packing)
  form, bits, group, symmetric = packing
  skip, size = list(skip), -1 if group == 'channel' else group
  require(form in GPTQ or not ordered, f'{form} keeps rows in order; use gptq_v2 for act order')
  if form == 'compressed-tensors':
    return _compressed_settings(packing, skip)
  if form in GPTQ:
    return dict(
      quant_method='gptq', bits=bits, group_size=size, sym=symmetric, desc_act=ordered,
      checkpoint_format=form, lm_head='lm_head' not in skip,
      dynamic={f'-:.*{re.escape(name)}$': {} for name in skip if name != 'lm_head'},
    )  # fmt: skip
  return dict(
    quant_method='awq', bits=bits, group_size=size, zero_point=True, version=form[4:],
    modules_to_not_convert=skip or None,
  )  # fmt: skip


def read(found: dict) -> Packing:
  """What a quantization_config says. Raises UsageError for what is unknown, DataError for nonsense.

  Names that are left out are not read: whether a layer is packed, its tensors tell.
  """
  if not isinstance(found, dict):
    raise DataError('quantization_config is no JSON object')
  method, readers = found.get('quant_method'), dict(awq=_awq, gptq=_gptq)
  readers['compressed-tensors'] = _compressed
  good = isinstance(method, str) and method in readers
  require(good, f'quant_method {method!r} is unknown.{did_you_mean(str(method), readers)}')
  packing = readers[method](found)
  known(packing)
  return packing


def _awq(found):
  version = found.get('version') or found.get('format') or 'gemm'
  version = _of(dict(version=version), 'version', str).lower()
  bits, size = _of(found, 'bits', 'w_bit', int), _of(found, 'group_size', 'q_group_size', int)
  require(
    version in awq.VERSIONS,
    f'awq version {version!r} is not read; convert the model to {" or ".join(awq.VERSIONS)}',
  )
  return Packing(f'awq-{version}', bits, _group(size), not _of(found, 'zero_point', bool))


def _gptq(found):
  form = _of({'checkpoint_format': 'gptq', **found}, 'checkpoint_format', str)
  require(form in GPTQ, f'checkpoint_format {form!r} is unknown.{did_you_mean(form, GPTQ)}')
  rules = found.get('dynamic') or {}
  require(
    isinstance(rules, dict) and all(rule.startswith('-:') for rule in rules),
    'quantization_config has layers in other bits or groups (dynamic); one for all is read',
  )
  size = _group(_of(found, 'group_size', int))
  return Packing(form, _of(found, 'bits', int), size, _of(found, 'sym', bool))


def _compressed(found):
  for name in 'transform_config', 'kv_cache_scheme':
    require(not found.get(name), f'quantization_config has a {name}, which is not read')
  groups = found.get('config_groups')
  good = isinstance(groups, dict) and all(isinstance(group, dict) for group in groups.values())
  if not good or not groups:
    raise DataError('quantization_config has no config_groups')
  schemes = [group.get('weights') for group in groups.values()]
  first, *others = schemes
  require(
    all(other == first for other in others),
    f'quantization_config has {len(schemes)} groups of layers that differ; one for all is read',
  )
  for group in groups.values():
    form = group.get('format') or found.get('format')
    require(form == 'pack-quantized', f"format {form!r} is not read; 'pack-quantized' is")
    acts = group.get('input_activations') or group.get('output_activations')
    require(not acts, 'quantization_config quantizes activations too, which is not read')
  if not isinstance(first, dict):
    raise DataError('quantization_config says nothing of weights')
  kind, strategy = first.get('type', 'int'), first.get('strategy')
  require(kind == 'int', f'weights of type {kind!r} are not read; int is')
  require(
    strategy in ('group', 'channel'), f"strategy {strategy!r} is not read; 'group', 'channel' are"
  )
  size = 'channel' if strategy == 'channel' else _group(_of(first, 'group_size', int))
  bits, symmetric = _of(first, 'num_bits', int), _of(first, 'symmetric', bool)
  return Packing('compressed-tensors', bits, size, symmetric)


def _compressed_settings(packing, skip):
  _, bits, group, symmetric = packing
  whole = group == 'channel'
  weights = dict(
    num_bits=bits, type='int', symmetric=symmetric, dynamic=False,
    strategy='channel' if whole else 'group', group_size=None if whole else group,
  )  # fmt: skip
  scheme = dict(
    targets=['Linear'], weights=weights, input_activations=None, output_activations=None
  )
  return dict(
    quant_method='compressed-tensors', format='pack-quantized', quantization_status='compressed',
    config_groups=dict(group_0=scheme), ignore=skip, kv_cache_scheme=None,
  )  # fmt: skip


def _of(found, *names_and_kind):
  """The first of those names that is there, of that kind. Raises DataError."""
  *names, kind = names_and_kind
  name = next((name for name in names if name in found), names[0])
  value = found.get(name)
  if type(value) is not kind:
    raise DataError(f'quantization_config has {name}={value!r}, which is no {kind.__name__}')
  return value


def _group(size):
  return 'channel' if size == -1 else size
