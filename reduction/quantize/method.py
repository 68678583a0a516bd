"""A quantizer put together from its parts: scales, clipping, rounding.

Round-to-nearest, AWQ, GPTQ, SmoothQuant and their compositions are values of one `Method`.
"""

import re
from typing import NamedTuple

import jax.numpy as jnp

from reduction.errors import did_you_mean, require
from reduction.models.served import ACTIVATIONS, integral
from reduction.qtensor import WHOLE, QTensor, Scheme, pack
from reduction.quantize.calibrate import Statistics
from reduction.quantize.gptq import gptq
from reduction.quantize.rtn import quantize

SEARCHED = 'awq', 'duo', 'learned'
SCALES = 'none', *SEARCHED, 'smooth'
ROUNDINGS = 'nearest', 'gptq', 'ordered'


class Method(NamedTuple):
  """How linears are quantized.

  scales: 'awq' searches them, 'duo' with weights too, 'learned' goes on from there by descent;
  'smooth' are SmoothQuant's of this strength; 'none' leaves inputs as they are. tokens: on so many,
  linears that share an input are judged where what they make comes together, see `replay`; 0 judges
  them by their own outputs, on all tokens. clip: searches a range for each group, but not for paths
  that match unclipped. rounding: 'nearest', 'gptq', or 'ordered', GPTQ with the largest inputs
  first in fixed groups. damp: of GPTQ. sequential: GPTQ of a linear sees the inputs that the packed
  linears before it give. skip: patterns of linears that stay as they are. stored: the type of
  scales, 'float16' as in files. activations: whether inputs are 8 bits too, see `served.Served`;
  for weights of 8 bits, symmetric, whose scales are of whole columns. gram: channels of a block of
  the Gram matrices that errors are from, which takes less memory and leaves out what channels of
  different blocks have in common; 0 keeps them whole, which GPTQ needs.
  """

  scheme: Scheme
  scales: str = 'none'
  clip: bool = False
  rounding: str = 'nearest'
  damp: float = 0.01
  skip: tuple[str, ...] = ('^out$',)
  unclipped: tuple[str, ...] = (
    r'(^|/)(q|k|query|key)(_proj)?$', r'(^|/)(qkv|q_k_v|query_key_value|W?qkv|c_attn)(_proj)?$',
  )  # fmt: skip
  stored: str = 'float16'
  activations: str = 'none'
  strength: float = 0.5
  tokens: int = 0
  sequential: bool = False
  gram: int = 0

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
    for name in 'tokens', 'gram':
      value = getattr(self, name)
      require(value >= 0, f'{name}={value} must not be negative')
    require(
      not self.gram or self.rounding == 'nearest',
      f'gram={self.gram} keeps blocks of Gram matrices, rounding={self.rounding!r} needs all',
    )
    require(
      not self.sequential or self.rounding != 'nearest',
      "sequential=True needs a rounding that looks at inputs: 'gptq' or 'ordered'",
    )
    require(
      self.activations == 'none' or integral(self.scheme),
      f'activations={self.activations!r} needs bits=8, symmetric=True and group={WHOLE[0]!r} or '
      f'{WHOLE[1]!r}, not {self.scheme}',
    )

  def takes(self, linear: str) -> bool:
    """Whether a linear is quantized."""
    return not any(re.search(pattern, linear) for pattern in self.skip)

  def clips(self, linear: str) -> bool:
    """Whether the groups of a linear are clipped."""
    left = any(re.search(pattern, linear) for pattern in self.unclipped)
    return self.clip and self.takes(linear) and not left

  @property
  def searches(self) -> bool:
    """Whether its scales are chosen by their error, for which other tokens can be held back."""
    return self.scales in SEARCHED

  def looks(self, planned: bool) -> bool:
    """Whether it needs to see inputs: for its rounding, or for a plan that is not there yet."""
    return self.rounding != 'nearest' or self.activations != 'none' or self._plans(planned)

  def reads(self, planned: bool) -> bool:
    """Whether it reads statistics of the float module, as all but sequential rounding do."""
    return not self.sequential or self.activations != 'none' or self._plans(planned)

  def _plans(self, planned: bool) -> bool:
    return not planned and (self.scales != 'none' or self.clip)

  def looks_at_sums(self, planned: bool) -> bool:
    """Whether all that it needs to see are statistics of the inputs of the float model."""
    return self.looks(planned) and not (self.searches and self.tokens) and not self.sequential


def rounded(
  kernel, linear: str, method: Method, seen: Statistics | None = None, kept=None
) -> QTensor:
  """A kernel [rows, out] of that path, packed.

  seen: statistics of its input, which GPTQ rounds by. kept: a mask; what it prunes stays 0.
  """
  scheme, dtype = method.scheme, jnp.dtype(method.stored)
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
