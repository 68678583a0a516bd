"""Ways in which papers count what a net takes, each by its name, from shapes alone.

One net has many sizes: with or without biases, a layer's two tensors or all that is held, decimal
or binary units. Tables that mix them compare nothing; here each count says what it counts.
"""

from reduction import energy
from reduction.mcu.graph import Conv, Depthwise, Graph, Product
from reduction.mcu.sparse import Sparse


def weights(graph: Graph) -> int:
  """How many weights the products have, without biases; bytes of int8."""
  return sum(op.weights.size for op in graph.ops if isinstance(op, Product))


def biases(graph: Graph) -> int:
  """How many biases, one an output channel (of what is left when norms are folded)."""
  return sum(len(op.bias) for op in graph.ops if isinstance(op, Product))


def moved(graph: Graph) -> int:
  """Bytes of activations that ops read and write, each once an op."""
  return sum(graph.tensors[t].size for op in graph.ops for t in (*op.inputs, op.output))


def microjoules(graph: Graph, constants: int) -> float:
  """An estimate for comparisons: the products of stored weights, `moved`, each constant once."""
  macs = sum(graph.macs(op) * _share(op) for op in graph.ops)
  return float(energy.microjoules(macs, moved(graph), constants))


def _share(op) -> float:
  """Of a product's weights, those stored."""
  return op.stored().values.size / op.weights.size if isinstance(op, Sparse) else 1.0


def in_out(graph: Graph) -> int:
  """The most values that a layer of weights reads and writes; poolings are left out."""
  size = lambda ts: sum(graph.tensors[t].size for t in ts)
  return max(size({*op.inputs, op.output}) for op in graph.ops if isinstance(op, Product))


def held(graph: Graph, *, blocks: bool = False) -> int:
  """The same and what shortcuts hold; blocks: the input of every inverted bottleneck is held.

  The second holds more than is ever read again where such a block strides and has no shortcut.
  """
  lives, inside, most = graph.lifetimes(), _blocks(graph) if blocks else [], 0
  for i, op in enumerate(graph.ops):
    if isinstance(op, Product):
      live = {t for t, (first, last) in lives.items() if first <= i <= last}
      live |= {start for start, ops in inside if i in ops}
      most = max(most, sum(graph.tensors[t].size for t in live))
  return most


def _blocks(graph) -> list[tuple[int, set[int]]]:
  """(input, ops) of every inverted bottleneck that expands."""
  made = {op.output: i for i, op in enumerate(graph.ops)}
  reads = {t: i for i, op in enumerate(graph.ops) for t in op.inputs}
  found = []
  for i, op in enumerate(graph.ops):
    before = made.get(op.inputs[0])
    if isinstance(op, Depthwise) and before is not None and _expands(graph.ops[before]):
      found.append((graph.ops[before].inputs[0], {before, i, reads.get(op.output, i)}))
  return found


def _expands(op) -> bool:
  return isinstance(op, Conv) and op.pointwise and len(op.weights) > op.weights.shape[-1]
