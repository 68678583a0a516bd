"""A quantizer put together from its parts: scales, clipping, rounding; what each linear becomes.

Round-to-nearest, AWQ, GPTQ, SmoothQuant and their compositions are values of one `Method`.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from reduction.errors import did_you_mean, require
from reduction.models.served import ACTIVATIONS, integral
from reduction.qtensor import WHOLE, QTensor, Scheme, dequantize, pack
from reduction.quantize import awq, smooth
from reduction.quantize.calibrate import Statistics
from reduction.quantize.clip import clip, clipped
from reduction.quantize.gptq import gptq
from reduction.quantize.inputs import Input
from reduction.quantize.rtn import quantize

SEARCHED = 'awq', 'duo'
SCALES = 'none', *SEARCHED, 'smooth'
ROUNDINGS = 'nearest', 'gptq', 'ordered'


class Method(NamedTuple):
  """How linears are quantized.

  scales: 'awq' searches them, 'duo' with weights too; 'smooth' are SmoothQuant's of this strength;
  'none' leaves inputs as they are. clip: searches a range for each group, but not for paths that
  match unclipped. rounding: 'nearest', 'gptq', or 'ordered', GPTQ with the largest inputs first in
  fixed groups. damp: of GPTQ. skip: patterns of linears that stay as they are. stored: the type of
  scales, 'float16' as in files. activations: whether inputs are 8 bits too, see `served.Served`;
  for weights of 8 bits, symmetric, whose scales are of whole columns.
  """

  scheme: Scheme
  scales: str = 'none'
  clip: bool = False
  rounding: str = 'nearest'
  damp: float = 0.01
  skip: tuple[str, ...] = ('^out$',)
  unclipped: tuple[str, ...] = (r'(^|/)(q|k|query|key)(_proj)?$',)
  stored: str = 'float16'
  activations: str = 'none'
  strength: float = 0.5

  def check(self):
    """Raises UsageError for what is no quantizer."""
    of = dict(scales=SCALES, rounding=ROUNDINGS, activations=ACTIVATIONS)
    for name, known in of.items():
      value = getattr(self, name)
      require(value in known, f'{name}={value!r} is unknown.{did_you_mean(str(value), known)}')
    require(0 < self.damp < 1, f'damp={self.damp} must lie between 0 and 1')
    require(
      self.stored in ('float16', 'bfloat16', 'float32'), f'stored={self.stored!r} is no float'
    )
    require(0 <= self.strength <= 1, f'strength={self.strength} must lie in [0, 1]')
    require(
      self.activations == 'none' or integral(self.scheme),
      f'activations={self.activations!r} needs bits=8, symmetric=True and group={WHOLE[0]!r} or '
      f'{WHOLE[1]!r}, not {self.scheme}',
    )

  def takes(self, linear: str) -> bool:
    """Whether a linear is quantized."""
    return not any(re.search(pattern, linear) for pattern in self.skip)

  @property
  def looks(self) -> bool:
    """Whether it needs statistics."""
    plain = (self.scales, self.clip, self.rounding) == ('none', False, 'nearest')
    return not plain or self.activations == 'tensor'

  @property
  def searches(self) -> bool:
    """Whether its scales are chosen by their error, for which other tokens can be held back."""
    return self.scales in SEARCHED


class Packed(NamedTuple):
  """A quantized linear. kernel: packed; error: of its output, relative to that of the weights as
  they were, squares summed over calibration tokens, whose own rounding is not in it; None without
  statistics."""

  kernel: QTensor
  error: jax.Array | None


def scales(
  flat: dict, inputs: Sequence[Input], statistics: dict[str, Statistics],
  method: Method, held: dict[str, Statistics] | None = None,
) -> dict[str, awq.Scales]:  # fmt: skip
  """Scales by the first linear of each input whose scales can hide; none where the method has none.

  flat: weights by path, of one replicate. held: statistics of other tokens, see `awq.search`.
  SmoothQuant's `exponent` is its strength, and its `losses` are none.
  """
  found = {}
  for one in inputs if method.scales != 'none' else ():
    name = one.linears[0]
    kernels = tuple(flat[f'{linear}/kernel'] for linear in one.linears if method.takes(linear))
    seen, ties = statistics.get(name), jnp.asarray(one.ties)
    if not (one.sources and kernels):
      continue
    if method.searches:
      found[name] = awq.search(
        kernels, seen, ties, scheme=method.scheme, held=held and held[name],
        duo=method.scales == 'duo',
      )  # fmt: skip
    else:
      scale = smooth.scale(seen, kernels, strength=method.strength, ties=ties)
      found[name] = awq.Scales(scale, jnp.float32(method.strength), jnp.zeros(0))
  return found


def packed(
  flat: dict,
  inputs: Sequence[Input],
  statistics: dict[str, Statistics],
  method: Method,
  masks: dict | None = None,
) -> Iterator[tuple[str, Packed]]:
  """(linear, what becomes of its kernel) for all that the method takes, one at a time.

  flat, statistics: after `awq.folded` and `awq.scaled`; statistics may be {} where the method does
  not look. masks: by path; what they prune stays 0.
  """
  for one in inputs:
    seen = statistics.get(one.linears[0])
    for linear in filter(method.takes, one.linears):
      kernel = flat[f'{linear}/kernel'].astype(jnp.float32)
      kept = masks and masks[f'{linear}/kernel']
      q = _packed(kernel, kept, linear, seen, method)
      error = None
      if seen is not None:
        error = awq.output_error(dequantize(q) - kernel, seen) / awq.output_error(kernel, seen)
      yield linear, Packed(q, error)


def _packed(kernel, kept, linear, seen, method) -> QTensor:
  scheme, dtype = method.scheme, jnp.dtype(method.stored)
  unclipped = any(re.search(pattern, linear) for pattern in method.unclipped)
  if method.clip and not unclipped:
    kernel = clipped(kernel, clip(kernel, seen, scheme=scheme), scheme)
  if method.rounding == 'nearest':
    return quantize(kernel, scheme, dtype=dtype)
  require(
    len(seen.gram) == 1, f'GPTQ of {linear} needs the whole Gram matrix of its {len(kernel)} inputs'
  )
  ordered = method.rounding == 'ordered'
  found = gptq(
    kernel, seen.gram[0], scheme=scheme, damp=method.damp, ordered=ordered, static=ordered,
    kept=kept, dtype=dtype,
  )  # fmt: skip
  zero = None if scheme.symmetric else found.by.zero.astype(jnp.uint8)
  data = pack(found.codes, scheme.bits)
  return QTensor(data, found.by.scale.astype(dtype), zero, scheme, len(kernel))
