"""Convolutions of which only some weights are stored: formats, their exact bytes, and the op.

A filterlet is the cin weights of one filter at one place of its window; what is all 0 in int8 is
not stored. The values of kept filterlets lie filter by filter, places in order; formats differ in
how they say which places those are. 'wide' stores all, in the bytes of a dense layer: its windows
are copied for four pixels at once, which takes fewer instructions and more memory.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.mcu.graph import Conv, Graph

MOST = 2**15 - 1  # of an int16, the offsets and counts of FWCS and of CSR


class Stored(NamedTuple):
  """values: int8. places: where they belong. starts: of each filter's, or empty."""

  values: np.ndarray
  places: np.ndarray
  starts: np.ndarray

  @property
  def nbytes(self) -> int:
    """Bytes of Flash."""
    return self.values.nbytes + self.places.nbytes + self.starts.nbytes


@dataclasses.dataclass(frozen=True, eq=False)
class Sparse(Conv):
  """A convolution whose weights [cout, kh, kw, cin] are kept in a format of FORMATS.

  weights holds zeros where nothing is stored. columns: output pixels that the kernel works on at
  once, whose windows it copies first.
  """

  form: str = 'fwcs'
  columns: int = 4

  def __post_init__(self):
    require(self.form in FORMATS, f'{self.name}: {self.form=} is not {", ".join(FORMATS)}')
    require(self.columns in (1, 2, 4), f'{self.name}: {self.columns=} is not 1, 2 or 4')
    if reason := unfit(self.weights, self.form):
      require(False, f'{self.name} cannot be kept as {self.form}: {reason}')

  @property
  def kind(self) -> str:
    """'conv', as where all is stored."""
    return 'conv'

  @property
  def pointwise(self) -> bool:
    """False: windows are copied also where they are one pixel."""
    return False

  def stored(self) -> Stored:
    """What is emitted in place of weights."""
    return FORMATS[self.form].pack(self.weights)

  def unpacked(self) -> np.ndarray:
    """The weights, from what is stored."""
    return FORMATS[self.form].unpack(self.stored(), self.weights.shape)

  def arrays(self) -> list[np.ndarray]:
    """As `Op.arrays`, of the form."""
    return [*self.stored(), self.bias, self.multiplier, self.shift]

  def scratch(self) -> int:
    """Bytes of the windows that are copied: int8 of CSR, else int16, cin rounded up to fours."""
    cin, places = self.weights.shape[3], math.prod(self.weights.shape[1:3])
    one = places * cin if self.form == 'csr' else 2 * places * -(-cin // 4) * 4
    return self.columns * one


def kept(weights) -> np.ndarray:
  """Which filterlets hold a weight that is not 0: bool [cout, kh * kw]."""
  return weights.reshape(len(weights), -1, weights.shape[-1]).any(-1)


def _values(weights, sets) -> np.ndarray:
  return weights.reshape(*sets.shape, -1)[sets].reshape(-1)


def _starts(counts) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(counts)]).astype(np.int16)


def pack_fwcs(weights) -> Stored:
  """FWCS of Han et al., INFOCOM 2024: K cin + 2 K + 2 (cout + 1) bytes of K filterlets.

  places: int16 [K], the byte at which the filterlet's inputs begin in a window, place * cin.
  starts: int16 [cout + 1], filterlets before each filter.
  """
  sets, cin = kept(weights), weights.shape[-1]
  places = np.nonzero(sets)[1] * cin
  return Stored(_values(weights, sets), places.astype(np.int16), _starts(sets.sum(1)))


def unpack_fwcs(stored: Stored, shape) -> np.ndarray:
  """The weights again, int8 of shape."""
  cin, weights = shape[-1], np.zeros((shape[0], math.prod(shape[1:])), np.int8)
  filters = np.repeat(np.arange(shape[0]), np.diff(stored.starts))
  for filterlet, (o, at) in enumerate(zip(filters, stored.places)):
    weights[o, at : at + cin] = stored.values[filterlet * cin : (filterlet + 1) * cin]
  return weights.reshape(shape)


def _bits(sets) -> np.ndarray:
  """One bit a place, filter after filter without gaps; the first is the lowest of its byte."""
  return np.packbits(sets.reshape(-1), bitorder='little')


def _sets(bits, count: int, places: int) -> np.ndarray:
  flat = np.unpackbits(bits, count=count * places, bitorder='little')
  return flat.reshape(count, places).astype(bool)


NONE = np.zeros(0, np.int16)


def pack_bitmap(weights) -> Stored:
  """K cin bytes and a bit for each filterlet, kept or not: 9 bits a filter of 3 x 3."""
  sets = kept(weights)
  return Stored(_values(weights, sets), _bits(sets), NONE)


def unpack_bitmap(stored: Stored, shape) -> np.ndarray:
  """The weights again."""
  places = shape[1] * shape[2]
  weights = np.zeros((shape[0], places, shape[3]), np.int8)
  weights[_sets(stored.places, shape[0], places)] = stored.values.reshape(-1, shape[3])
  return weights.reshape(shape)


def _pairs(weights) -> np.ndarray:
  """Filters in twos, [pairs, 2, places, cin]; a last one alone beside zeros."""
  cout, _, _, cin = weights.shape
  even = np.zeros((-(-cout // 2) * 2, *weights.shape[1:]), np.int8)
  even[:cout] = weights
  return even.reshape(-1, 2, math.prod(weights.shape[1:3]), cin)


def pack_paired(weights) -> Stored:
  """A bit for each place of two filters, which keep it both: values [place][filter][cin].

  A place that one of them lacks holds its zeros; of an odd last filter only its own are stored.
  """
  pairs = _pairs(weights)
  sets = pairs.any((1, 3))
  parts = [pair[:, chosen].swapaxes(0, 1) for pair, chosen in zip(pairs, sets)]
  if len(weights) % 2:
    parts[-1] = parts[-1][:, :1]
  values = np.concatenate([part.reshape(-1) for part in parts])
  return Stored(values, _bits(sets), NONE)


def unpack_paired(stored: Stored, shape) -> np.ndarray:
  """The weights again."""
  places, cin, pairs = shape[1] * shape[2], shape[3], -(-shape[0] // 2)
  weights, at = np.zeros((pairs * 2, places, cin), np.int8), 0
  for q, chosen in enumerate(_sets(stored.places, pairs, places)):
    filters = 1 if 2 * q + 1 == shape[0] else 2
    size = chosen.sum() * filters * cin
    part = stored.values[at : at + size].reshape(-1, filters, cin)
    weights[2 * q : 2 * q + filters, chosen] = part.swapaxes(0, 1)
    at += size
  return weights[: shape[0]].reshape(shape)


def pack_csr(weights) -> Stored:
  """Single weights with an int16 each, their byte in a window, and filters' starts."""
  flat = weights.reshape(len(weights), -1)
  return Stored(flat[flat != 0], np.nonzero(flat)[1].astype(np.int16), _starts((flat != 0).sum(1)))


def unpack_csr(stored: Stored, shape) -> np.ndarray:
  """The weights again."""
  weights = np.zeros((shape[0], math.prod(shape[1:])), np.int8)
  filters = np.repeat(np.arange(shape[0]), np.diff(stored.starts))
  weights[filters, stored.places] = stored.values
  return weights.reshape(shape)


def pack_wide(weights) -> Stored:
  """All weights, as where they are dense: the windows alone are copied as those of filterlets."""
  return Stored(weights.reshape(-1), NONE, NONE)


def unpack_wide(stored: Stored, shape) -> np.ndarray:
  """The weights again."""
  return stored.values.reshape(shape)


class Format(NamedTuple):
  """pack: weights [cout, kh, kw, cin] -> Stored. unpack: (Stored, shape) -> weights."""

  pack: Callable
  unpack: Callable


FORMATS = {
  'fwcs': Format(pack_fwcs, unpack_fwcs),
  'bitmap': Format(pack_bitmap, unpack_bitmap),
  'paired': Format(pack_paired, unpack_paired),
  'csr': Format(pack_csr, unpack_csr),
  'wide': Format(pack_wide, unpack_wide),
}
OF_FILTERLETS = 'fwcs', 'bitmap', 'paired'


def nbytes(weights, form: str) -> int:
  """Bytes of Flash of weights in a form, or 'dense'; or of one that no kernel here reads.

  'element_bitmap': a bit a weight, as N:M rows need too. 'patterns': which of the patterns that
  occur each kernel [kh, kw] has, in the fewest whole bits, and two bytes for each eight places.
  """
  cout, kh, kw, cin = weights.shape
  dense = weights.size
  if form in ('dense', 'wide'):
    return dense
  nonzero = np.count_nonzero(weights)
  if form == 'element_bitmap':
    return int(nonzero) + -(-dense // 8)
  if form == 'patterns':
    shapes = np.unique(np.moveaxis(weights != 0, 3, 1).reshape(-1, kh * kw), axis=0)
    bits = math.ceil(math.log2(max(len(shapes), 1)))
    return int(nonzero) + -(-bits * cout * cin // 8) + len(shapes) * 2 * -(-kh * kw // 8)
  if form == 'csr':
    return int(3 * nonzero) + 2 * (cout + 1)
  if form == 'paired':
    sets = _pairs(weights).any((1, 3))
    values = 2 * sets.sum() - (sets[-1].sum() if cout % 2 else 0)
    return int(values * cin) + -(-sets.size // 8)
  count = int(kept(weights).sum())
  if form == 'bitmap':
    return count * cin + -(-cout * kh * kw // 8)
  return count * cin + 2 * count + 2 * (cout + 1)


def unfit(weights, form: str) -> str | None:
  """Why a form cannot hold weights, or None: the limits of its integers."""
  window, places = math.prod(weights.shape[1:]), weights.shape[1] * weights.shape[2]
  if form == 'wide':
    return None
  if form in ('bitmap', 'paired'):
    return f'{places} places pass the 25 of a set' if places > 25 else None
  count = np.count_nonzero(weights) if form == 'csr' else kept(weights).sum()
  if window > MOST:
    return f'its window of {window:,} bytes passes {MOST:,}; a bitmap has no such limit'
  what = 'weights' if form == 'csr' else 'filterlets'
  return f'its {count:,} {what} pass {MOST:,}; a bitmap has no such limit' if count > MOST else None


def sparsify(graph: Graph, forms=OF_FILTERLETS, *, columns: int = 4, cost=None) -> Graph:
  """graph with every convolution in the form that costs least; 1 x 1 ones dense, or 'csr'.

  forms: those allowed beside 'dense'; each must fit. cost: (op, form) -> a number, by default exact
  bytes; the earlier of equal ones, dense first. What an op computes does not change.
  """
  cost = cost or (lambda op, form: nbytes(op.weights, form))
  return dataclasses.replace(graph, ops=tuple(_cheapest(op, forms, columns, cost)
                                              for op in graph.ops))  # fmt: skip


def _cheapest(op, forms, columns, cost):
  if type(op) is not Conv:
    return op
  fits = lambda form: form == 'csr' or op.window.kernel != (1, 1)
  allowed = ['dense', *(f for f in forms if fits(f) and not unfit(op.weights, f))]
  best = min(allowed, key=lambda form: cost(op, form))
  return op if best == 'dense' else as_form(op, best, columns)


def as_form(op: Conv, form: str, columns: int = 4) -> Sparse:
  """A convolution kept in a form."""
  fields = {f.name: getattr(op, f.name) for f in dataclasses.fields(Conv)}
  return Sparse(**fields, form=form, columns=columns)


def footprint(weights, forms=OF_FILTERLETS) -> int:
  """The least bytes of weights [cout, kh, kw, cin], dense or in one of forms."""
  return min(nbytes(weights, form) for form in ('dense', *forms)
             if form not in FORMATS or not unfit(weights, form))  # fmt: skip
