"""A language model's net as the files that others load: vLLM, Transformers, llama.cpp.

Packed layers come out in the layouts of AutoAWQ, GPTQ and compressed-tensors, with the very codes
and scales that the net has, or in GGUF's blocks. `opened.language_model` reads all of them back.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reduction import tree
from reduction.errors import UserError, did_you_mean, require
from reduction.formats import folder, ggml, llama_cpp, packing, quantization
from reduction.formats.quantization import FORMATS, Packing
from reduction.models import decoder_files, language
from reduction.models.served import Served, bare
from reduction.net import Net
from reduction.qtensor import QTensor, Scheme, dequantize, is_packed, unpack

PLAIN = 'float16', 'bfloat16', 'float32'
BLOCKS = {(4, True): 'q4_0', (4, False): 'q4_1', (8, True): 'q8_0'}  # (bits, symmetric) -> kind
GGUF = {**dict.fromkeys(BLOCKS.values()), 'f16': 'float16', 'f32': 'float32'}
TABLE = 'q8_0'  # of words
INTEGERS = 'inputs in 8 bits are in none of these formats; use activations="none"'
STRIP = 128  # columns that a layout is tried on, a multiple of what any puts together
ARCHITECTURES = dict(
  llama='LlamaForCausalLM', mistral='MistralForCausalLM', qwen2='Qwen2ForCausalLM',
  qwen3='Qwen3ForCausalLM', gemma='GemmaForCausalLM', gpt2='GPT2LMHeadModel',
  opt='OPTForCausalLM',
)  # fmt: skip


class Format(NamedTuple):
  """What a net is written as.

  name: of FORMATS, for packed nets; of PLAIN, unpacked; of GGUF, a file model.gguf, where kernels
  of a float net are rounded to blocks and a packed net's groups are multiples of 32. dtype: of what
  is not packed; beside GGUF's blocks also 'q8_0', in which llama.cpp keeps tables of words. shard:
  bytes of a safetensors file.
  """

  name: str = 'compressed-tensors'
  dtype: str = 'float16'
  shard: int = 2 * 10**9

  def check(self):
    """Raises UsageError for what is none."""
    known = (*FORMATS, *PLAIN, *GGUF)
    require(self.name in known, f'format={self.name!r} is unknown.{did_you_mean(self.name, known)}')
    table = self.dtype == TABLE and self.name in BLOCKS.values()
    one_of = f'{", ".join(PLAIN)}, or {TABLE} beside {", ".join(BLOCKS.values())}'
    require(self.dtype in PLAIN or table, f'dtype={self.dtype!r} must be one of {one_of}')
    fits = self.name not in GGUF or self.dtype != 'bfloat16'
    require(fits, f'GGUF files are not written in dtype={self.dtype!r}; float16 and float32 are')
    require(self.shard > 0, f'shard={self.shard} must be above 0')

  @property
  def rest(self) -> str:
    """The type of what is not packed."""
    return self.name if self.name in PLAIN else GGUF.get(self.name) or self.dtype


def write(
  place: Path, net: Net, config: dict, files: Mapping[str, str | Path], form: Format | None = None
):
  """Fills an empty folder with a net of one replicate, reading its weights one at a time.

  config: as config.json has it; files: what goes with the weights, by name (`Opened` has both).
  Raises UsageError, with the name of the layer, for what the format does not hold.
  """
  form = form or Format()
  form.check()
  of, served = language.family(config), isinstance(net.module, Served)
  module = bare(net.module)
  same = module == of.make(**of.settings(config))
  require(same, f'the net is no longer the {config["model_type"]} that its config.json describes')
  integers = served and net.module.activations != 'none'
  require(not integers, INTEGERS)
  leaves = dict(tree.named(net.params, is_packed))
  schemes = {leaf.scheme for leaf in leaves.values() if is_packed(leaf)}
  alike = len(schemes) < 2
  require(alike, f'a folder packs all layers in one way, not in {sorted(map(str, schemes))}')
  masks = {} if net.masks is None else dict(tree.named(net.masks))

  def weight(path: str) -> np.ndarray:
    w = np.asarray(dequantize(_one(leaves[path])) if is_packed(leaves[path]) else leaves[path][0])
    return np.where(masks[path][0], w, 0) if path in masks else w

  parts = _Parts(config, of.settings(config), of.places(config), leaves, weight)
  scheme = next(iter(schemes), None)
  if form.name in GGUF:
    _gguf(place, parts, files, scheme, form)
  else:
    _folder(place, parts, files, scheme, form)


def fits(
  config: dict, form: Format, scheme: Scheme | None = None, activations: str = 'none',
  files: Mapping[str, str | Path] | None = None,
):  # fmt: skip
  """Raises UsageError for what `write` would refuse after a long run: known from shapes alone.

  config, files: as for `write`, what files hold is looked at where they are given. scheme: that
  kernels of blocks will be packed by, None if that is not known; activations: of `Served`.
  """
  form.check()
  of = language.family(config)
  require(activations == 'none', INTEGERS)
  packed = None
  if form.name in GGUF:
    _blocks(scheme, form)
    llama_cpp.metadata(of.settings(config), config, form.name)
    if files:
      _vocabulary(files, config, of.settings(config)['vocabulary'])
  elif scheme:
    packed = _packing(scheme, form)
  if not scheme:
    return
  for path, place in of.places(config).items():
    if not path.startswith('layer0/') or not path.endswith('/kernel'):
      continue  # blocks are alike
    rows, columns = place.shape[::-1] if place.linear else place.shape
    columns = columns % STRIP or STRIP  # what a layout asks of columns is asked of so many
    shape = scheme.groups(rows), columns
    zero = None if scheme.symmetric else np.full(shape, 2 ** (scheme.bits - 1), np.uint8)
    linear = packing.Linear(np.zeros((rows, columns), np.uint8), np.ones(shape, np.float16), zero)
    if packed:
      _laid_out(place, packed, linear)
    elif form.name in BLOCKS.values():
      _in_blocks(place.name, linear, scheme)


class _Parts(NamedTuple):
  """config: as config.json has it; sizes: of the net; by path, places in a file and leaves; weight:
  path -> floats."""

  config: dict
  sizes: dict
  places: dict[str, decoder_files.Place]
  leaves: dict
  weight: Callable[[str], np.ndarray]


def _folder(place, parts, files, scheme, form):
  packed, settings = _packing(scheme, form), None
  if packed:
    linear = lambda path: path.endswith('/kernel') and not is_packed(parts.leaves[path])
    skip = [p.name.removesuffix('.weight') for path, p in parts.places.items() if linear(path)]
    settings = quantization.settings(packed, skip=dict.fromkeys([*skip, 'lm_head']))
  config = {key: value for key, value in parts.config.items() if value is not None}
  config = {'architectures': [ARCHITECTURES[config['model_type']]], **config}
  config.pop('dtype', None)  # the newer name of the same
  config['torch_dtype'] = form.rest
  tensors = _tensors(parts, packed, form.rest)
  folder.fill(place, config, tensors, quantization=settings, files=files, shard=form.shard)


def _packing(scheme: Scheme | None, form: Format) -> Packing | None:
  """How layers of a scheme are packed in a folder; None in one of floats."""
  if form.name not in FORMATS:
    return None
  some = scheme is not None
  require(some, f'{form.name} is for packed nets; put a stage such as awq before it')
  require(scheme.group != 'tensor', "group='tensor' is in none of these formats; use 'channel'")
  symmetric = scheme.symmetric and not form.name.startswith('awq')  # which has zero points always
  packed = Packing(form.name, scheme.bits, scheme.group, symmetric)
  quantization.known(packed)
  return packed


def _tensors(parts, packed: Packing | None, dtype) -> Iterator[tuple[str, np.ndarray]]:
  """Names and arrays of a model folder."""
  _, _, places, leaves, weight = parts
  apart = {path for path, leaf in leaves.items() if packed and is_packed(leaf)}
  rest = {path: place for path, place in places.items() if path not in apart}
  for name, w in decoder_files.tensors(rest, weight):
    yield name, _as(dtype, name, w)
  for path in sorted(apart, key=list(places).index):
    yield from _laid_out(places[path], packed, _linear(leaves[path]))


def _laid_out(place: decoder_files.Place, packed: Packing, linear) -> list[tuple[str, np.ndarray]]:
  """Names and arrays of one packed layer."""
  layer = place.name.removesuffix('.weight')
  require(
    place.linear, f'{layer} has no layout in {packed.format}: it is no linear layer [out, in]; use '
    'float16'
  )  # fmt: skip
  if not packed.symmetric:
    linear = linear._replace(zero=packing.middle_for(linear.zero, packed.bits, linear.scale))
  tensors = _named(layer, quantization.pack, packed, linear)
  return [(f'{layer}.{last}', tensor) for last, tensor in tensors.items()]


def _gguf(place, parts, files, scheme, form):
  config, sizes, places, leaves, weight = parts
  blocks = _blocks(scheme, form)
  turned = lambda name, w: llama_cpp.turned(name, w, sizes, config)

  def tensors():
    for path, (name, *_) in places.items():
      theirs = llama_cpp.name(name)
      if blocks and is_packed(leaves[path]):
        linear = (x if x is None else turned(name, x.T).T for x in _linear(leaves[path]))
        yield theirs, _in_blocks(name, packing.Linear(*linear), scheme)
        continue
      w = turned(name, places[path].stored(weight(path)))
      if blocks and not scheme and path.startswith('layer') and path.endswith('/kernel'):
        yield theirs, _named(name, ggml.quantize, w, form.name.upper())
      elif w.ndim > 1 and form.rest == TABLE:
        yield theirs, _named(name, ggml.quantize, w, TABLE.upper())
      else:
        yield theirs, _as('float32' if w.ndim == 1 else form.rest, name, w)

  fields = llama_cpp.metadata(sizes, config, form.name)
  fields |= _vocabulary(files, config, sizes['vocabulary'])
  ggml.write(place / 'model.gguf', fields, tensors())


def _blocks(scheme: Scheme | None, form: Format) -> bool:
  """Whether kernels are in GGUF's blocks. Raises UsageError for those that hold no such scheme."""
  blocks = form.name in BLOCKS.values()
  if scheme and blocks:
    right = BLOCKS.get((scheme.bits, scheme.symmetric))
    what = f'{scheme.bits} bits with{"out" * scheme.symmetric} zero points'
    require(right == form.name, f'{form.name} does not hold {what}; {right or "f16"} does')
  return blocks


def _in_blocks(name: str, linear: packing.Linear, scheme: Scheme):
  """One packed layer in GGUF's blocks, which also hold its groups."""
  codes, scale, zero, _ = linear
  how = dict(bits=scheme.bits, group=scheme.group, rounded=True)
  return _named(name, ggml.from_codes, codes, scale, zero, **how)


def _vocabulary(files: Mapping[str, str | Path], config: dict, vocabulary: int) -> dict:
  """The fields of a GGUF file that tell of its tokens."""
  content = lambda name: files[name] if isinstance(files[name], str) else files[name].read_text()
  template = None
  if 'tokenizer_config.json' in files:
    found = json.loads(content('tokenizer_config.json')).get('chat_template')
    template = found if isinstance(found, str) else None
  if 'chat_template.jinja' in files:
    template = content('chat_template.jinja')
  return llama_cpp.vocabulary(json.loads(content('tokenizer.json')), config, vocabulary, template)


def _one(leaf: QTensor) -> QTensor:
  """The one replicate of a packed leaf, in memory."""
  return tree.map(lambda x: np.asarray(x[0]), leaf)


def _linear(leaf: QTensor) -> packing.Linear:
  """A packed leaf in the formats' terms."""
  q = _one(leaf)
  return packing.Linear(np.asarray(unpack(q.data, q.scheme.bits, q.rows)), q.scale, q.zero)


def _as(dtype: str, name: str, w: np.ndarray) -> np.ndarray:
  """w in a type. Raises UsageError where that has no such numbers."""
  with np.errstate(over='ignore'):
    new = w.astype(dtype)
  fits = np.isfinite(new.astype(np.float32)).all()
  most = abs(w).max()
  require(fits, f'{name} has numbers up to {most:.3g}, too large for {dtype}; use bfloat16')
  return new


def _named(layer: str, pack: Callable, *args, **how):
  """pack(*args, **how); its errors name the layer."""
  try:
    return pack(*args, **how)
  except UserError as error:
    raise type(error)(f'{layer}: {error}') from error
