"""What quantizing a language model will take, known before any work: from shapes alone.

Bytes of every scheme, memory at the peak, products to compute, and what stays as it is.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction import language, tree
from reduction.cost import macs, peak
from reduction.fold import WAITING
from reduction.models.decoder import parts, taken
from reduction.net import Net
from reduction.qtensor import Scheme, packed
from reduction.quantize import replay
from reduction.quantize.awq import GRID
from reduction.quantize.calibrate import nbytes
from reduction.quantize.clip import CLIPS
from reduction.quantize.gptq import products
from reduction.quantize.inputs import Input, find
from reduction.quantize.method import Method

COMPARED = 8, 4, 3  # bits
HALF, SINGLE = 2, 4  # bytes of a float
# copies at once, measured as temporary memory of the compiled programs
KERNELS = 4  # of a kernel in the searches and in what its rounding costs
FACTORS = 6, 2  # GPTQ: of a Gram matrix, of a kernel


class _Replayed(NamedTuple):
  """Of the linears of one input on the tokens that judge their scales: multiply-accumulates of a
  loss, bytes of what it is counted on and of its values at once."""

  macs: int
  captured: int
  peak: int


class _Job(NamedTuple):
  """shapes: of all weights by path, block: of one block's, by path in it. inputs: of a block."""

  net: Net
  shapes: dict[str, jax.ShapeDtypeStruct]
  block: dict[str, jax.ShapeDtypeStruct]
  inputs: list[Input]
  method: Method

  @property
  def layers(self) -> int:
    return self.net.module.layers

  def kernels(self, one: Input) -> list[tuple[int, int]]:
    """Rows and columns of what is quantized of an input's linears."""
    return [self.block[f'{n}/kernel'].shape for n in one.linears if self.method.takes(n)]

  def outside(self, *names: str) -> dict:
    """Shapes of parts that are no blocks, as the programs of `language` take them."""
    return tree.nest({path: w for path, w in self.shapes.items() if path.split('/')[0] in names})

  def layer(self, passages: int, length: int):
    """The program of a block, its last argument the states of so many passages."""
    program = language.programs(self.net.module)[1]
    x = jax.ShapeDtypeStruct((passages, length, self.net.module.width), jnp.float32)
    return jax.make_jaxpr(program)(tree.nest(self.block), x).jaxpr

  def replayed(self, passages: int, length: int) -> dict[str, _Replayed]:
    """What `replay` does for each input that it judges, by its first linear."""
    x = jax.ShapeDtypeStruct((passages, length, self.net.module.width), jnp.float32)
    params = tree.nest(self.block)
    scaled, found = [one for one in self.inputs if one.sources], {}
    for name, one in replay.find(parts(self.net.module)[1], params, x, scaled).items():
      on = jax.eval_shape(one.capture, params, x)
      linears = next(i.linears for i in scaled if i.linears[0] == name)
      kernels = {n: self.block[f'{n}/kernel'] for n in linears}
      loss = jax.make_jaxpr(lambda new, on, loss=one.loss: loss(new, None, on))(kernels, on)
      values = _bytes([*on.values, on.exact])
      piece = jax.make_jaxpr(one.capture)(params, x)
      found[name] = _Replayed(macs(loss.jaxpr), values, peak(piece.jaxpr))
    return found

  def losses(self, passages: int, length: int):
    """The program of the last layer and the losses, its last argument the states."""
    program = language.programs(self.net.module)[2].__wrapped__
    x = jax.ShapeDtypeStruct((passages, length, self.net.module.width), jnp.float32)
    tokens = jax.ShapeDtypeStruct((passages, length), jnp.int32)
    given = self.outside('embed', 'norm', 'out'), tokens, x
    return jax.make_jaxpr(lambda params, tokens, x: program(params, x, tokens))(*given).jaxpr


def preflight(
  net: Net, calibration: tuple[int, int], test: tuple[int, int], *, method: Method, batch: int,
  held: float, follows: str = 'float',
) -> dict:  # fmt: skip
  """A row of what `stages.awq` will take. Nothing is computed and no weight is read.

  net: as the stage is given it; shapes and types of its leaves are enough. calibration, test:
  passages, and tokens of each, that it is calibrated on, and measured on before and after. batch,
  held, follows: of the stage.

  params; fp16_bytes, int8_bytes...: all weights in so many bits; int8_group_bytes...: with scales
  and, unless symmetric, zero points of the method's groups, vectors in 16 bits; packed_bytes: of
  the packed_linears in the method's own scheme, bits: of a weight there; stored_bytes: of all that
  comes out, the rest as it was, folder_bytes: with the rest in 16 bits. memory_bytes: about, at the
  peak of quantizing and measuring, whose parts are *_memory. calibrating_flops, searching_flops,
  rounding_flops, measuring_flops; searching_weights, rounding_weights: so many weights are rounded
  then. unpacked, unscaled: what is not quantized, what is not scaled, and why.
  Raises UsageError for passages that are longer than the model reads.
  """
  for _, length in calibration, test:
    taken(jax.ShapeDtypeStruct((1, length), jnp.int32), net.module)
  shapes = {p: jax.ShapeDtypeStruct(w.shape[1:], w.dtype) for p, w in tree.named(net.params)}
  block = {p.partition('/')[2]: w for p, w in shapes.items() if p.startswith('layer0/')}
  x = jax.ShapeDtypeStruct((1, 2, net.module.width), jnp.float32)
  inputs = find(parts(net.module)[1], tree.nest(block), x)
  job = _Job(net, shapes, block, inputs, method)
  sizes = _sizes(job)
  judged = _judged(job, calibration, batch, held)
  row = dict(kind='preflight', summary=True, scheme=_named(method.scheme), **sizes)
  row |= _memory(job, calibration, test, batch, held, sizes, judged)
  passes = method.looks(False) * (1 if follows == 'float' else 2)  # of each block
  return row | _work(job, calibration, test, judged, passes) | _left(job)


def _judged(job: _Job, calibration, batch, held) -> dict[str, _Replayed]:
  """What `replay` does for this job, on examples as many as it takes."""
  method, (passages, length) = job.method, calibration
  if not (method.searches and method.tokens and passages):
    return {}
  late = batch * int(held * math.ceil(passages / batch))
  sizes = [size for size in (passages - late, late) if size > 0]
  return job.replayed(replay.taken(method.tokens, length, *sizes), length)


def stored(shape, scheme: Scheme, scale: int = HALF) -> int:
  """Bytes of a weight [..., rows, columns] packed so. scale: bytes of one."""
  *batch, rows, columns = shape if scheme.axis == -2 else (*shape[:-2], shape[-1], shape[-2])
  groups = 1 if scheme.group == 'tensor' else scheme.groups(rows) * columns
  zero = 0 if scheme.symmetric else 1
  return math.prod(batch) * (packed(scheme.bits, rows) * columns + groups * (scale + zero))


def _bytes(leaves) -> int:
  return sum(math.prod(w.shape) * w.dtype.itemsize for w in leaves)


def _sizes(job: _Job) -> dict:
  own, params = job.method.scheme, sum(math.prod(w.shape) for w in job.shapes.values())
  found = dict(params=params, fp16_bytes=HALF * params)
  for bits in COMPARED:
    found[f'int{bits}_bytes'] = math.ceil(params * bits / 8)
    by = {end: Scheme(bits, own.group, own.symmetric, axis) for end, axis in
          dict(kernel=-2, embedding=-1).items()}  # fmt: skip
    found[f'int{bits}_group_bytes'] = sum(
      stored(w.shape, by[path.rpartition('/')[2]]) if len(w.shape) == 2
      else HALF * math.prod(w.shape)
      for path, w in job.shapes.items()
    )  # fmt: skip
  kernels = [shape for one in job.inputs for shape in job.kernels(one)]
  weights = job.layers * sum(map(math.prod, kernels))
  scale = jnp.dtype(job.method.stored).itemsize
  small = job.layers * sum(stored(shape, own, scale) for shape in kernels)
  rest = _bytes(job.shapes.values()) - SINGLE * weights
  return found | dict(
    packed_linears=job.layers * len(kernels), packed_bytes=small, stored_bytes=small + rest,
    folder_bytes=small + HALF * (params - weights),
    bits=round(8 * small / max(weights, 1), 3),
  )  # fmt: skip


def _memory(job: _Job, calibration, test, batch, held, sizes, judged) -> dict:
  method, width = job.method, job.net.module.width
  copies = [KERNELS * math.prod(shape) for one in job.inputs for shape in job.kernels(one)]
  if method.rounding != 'nearest':
    grams, kernels = FACTORS
    copies += [grams * one.rows**2 + kernels * rows * columns
               for one in job.inputs for rows, columns in job.kernels(one)]  # fmt: skip
  # those of the tokens that search and those that judge, and both together; before scales and after
  sets = 3 if held and method.searches else 2 if method.scales != 'none' else 1
  quantizing = dict(
    embedding=_bytes(tree.leaves(job.outside('embed', 'positions'))),
    blocks=2 * SINGLE * sum(math.prod(w.shape) for w in job.block.values()),
    statistics=sets * method.looks(False) * nbytes(job.inputs, method.gram or None),
    states=2 * SINGLE * math.prod(calibration) * width,
    outs=2 * min(sizes['packed_bytes'], WAITING + sizes['packed_bytes'] // job.layers),
    judging=(2 if held else 1) * sum(one.captured for one in judged.values()),
    working=max(
      SINGLE * max(copies, default=0), peak(job.layer(batch, calibration[1])),
      *(one.peak for one in judged.values()),
    ),
  )
  at_once = max(1, min(language.BATCH, test[0])), test[1]
  one = _bytes(job.block.values()) + peak(job.layer(*at_once))
  last = _bytes(tree.leaves(job.outside('embed', 'norm', 'out')))
  last += peak(job.losses(*at_once))
  measuring = sizes['packed_bytes'] + max(one, last)
  named = {f'{name}_memory': size for name, size in quantizing.items()}
  most = max(sum(quantizing.values()), measuring)
  return dict(memory_bytes=most, **named, measuring_memory=measuring)


def _work(job: _Job, calibration, test, judged, passes: int) -> dict:
  """Floating-point operations of the products, and how many weights are rounded."""
  method = job.method
  gram = search = clip = gptq = error = rounded = 0
  for one in job.inputs if passes else ():
    gram += math.prod(calibration) * one.rows * min(one.rows, method.gram or one.rows)
    replays = judged.get(one.linears[0])
    search += (GRID + 2) * replays.macs if replays else 0
    for linear in filter(method.takes, one.linears):
      rows, columns = job.block[f'{linear}/kernel'].shape
      output = rows * (rows + 1) * columns  # of the error of an output
      error += 2 * output
      if method.searches and one.sources:
        search += 0 if replays else (GRID + 2) * output
        rounded += (GRID + 2) * rows * columns
      if method.clips(linear):
        clip += CLIPS * rows * (method.scheme.size(rows) + 1) * columns
        rounded += CLIPS * rows * columns
      if method.rounding != 'nearest':
        gptq += products(rows, columns)
  through, measured = (macs(job.layer(1, length)) for _, length in (calibration, test))
  found = dict(
    calibrating=job.layers * (passes * calibration[0] * through + gram),
    searching=job.layers * (search + clip),
    rounding=job.layers * (gptq + error),
    # before and after
    measuring=2 * test[0] * (job.layers * measured + macs(job.losses(1, test[1]))),
  )
  once = sum(math.prod(shape) for one in job.inputs for shape in job.kernels(one))
  return {f'{name}_flops': 2 * count for name, count in found.items()} | dict(
    searching_weights=job.layers * rounded, rounding_weights=job.layers * once
  )


def _left(job: _Job) -> dict:
  """Texts of what is not quantized and what is not scaled."""
  unscaled = [
    f'{", ".join(one.linears)}: {one.why}' for one in job.inputs
    if not one.sources and job.method.scales != 'none'
  ]  # fmt: skip
  return dict(unpacked='; '.join(_unpacked(job)), unscaled='; '.join(unscaled))


def _unpacked(job: _Job) -> Iterator[str]:
  for path, w in job.shapes.items():
    if len(w.shape) > 1 and not path.startswith('layer'):
      yield f'{path.rpartition("/")[0]}: outside the blocks'
  linears = [linear for one in job.inputs for linear in one.linears]
  for linear in linears:
    if not job.method.takes(linear):
      yield f'{linear}: matches skip'
  for path, w in job.block.items():
    if len(w.shape) > 1 and path.removesuffix('/kernel') not in linears:
      yield f'{path}: not a plain linear'


def _named(scheme: Scheme) -> str:
  """'INT4 in groups of 128, zero points'."""
  group = f'a {scheme.group}' if isinstance(scheme.group, str) else f'groups of {scheme.group}'
  return f'INT{scheme.bits} in {group}, {"symmetric" if scheme.symmetric else "zero points"}'
