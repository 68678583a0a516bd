"""Random small graphs of every operator and its odd cases, such as a .tflite file can hold."""

import functools

import numpy as np

from reduction.mcu import graph as g
from reduction.mcu import scales, sketch


class Maker:
  """A graph under way: `grow` adds a random op that fits the tensors so far."""

  def __init__(self, seed: int):
    self.random = np.random.default_rng(seed)
    size = *(int(n) for n in self.random.integers(3, 12, 2)), int(self.random.integers(1, 8))
    self.sketch = sketch.Sketch(size, seed)
    self.seed = seed

  def pick(self, values):
    """One of values, as it is."""
    return values[int(self.random.integers(len(values)))]

  def number(self, low: int, high: int) -> int:
    """In [low, high]."""
    return int(self.random.integers(low, high + 1))

  def shape(self, x: int):
    """Of a tensor."""
    return self.sketch.tensors[x].shape

  def clamped(self, x: int) -> int:
    """The last op with a random fused activation."""
    op, tensor = self.sketch.ops[-1], self.sketch.tensors[x]
    low, high = scales.ends(*self.pick(list(scales.ACTIVATIONS.values())), tensor)
    self.sketch.ops[-1] = type(op)(**vars(op) | dict(low=low, high=high))
    return x

  def window(self, x: int, *, poolings: bool = False) -> dict:
    """Kernel, stride and pad: SAME, VALID, or for products and maxima any asymmetric one."""
    h, w, _ = self.shape(x)
    kernel = self.number(1, min(h, 5)), self.number(1, min(w, 5))
    stride = self.number(1, 3), self.number(1, 3)
    same = sum(map(scales.same, (h, w), kernel, stride), ())
    odd = tuple(self.number(0, k - 1) for k in np.repeat(kernel, 2).tolist())
    return dict(kernel=kernel, stride=stride,
                pad=self.pick([same, (0, 0, 0, 0)] + [odd] * (not poolings)))  # fmt: skip

  def conv(self, x):
    cout = self.number(1, 9)
    return self.clamped(sketch.conv(self.sketch, x, cout, **self.window(x)))

  def pointwise(self, x):
    return self.clamped(sketch.conv(self.sketch, x, self.number(1, 9)))

  def depthwise(self, x):
    times = self.pick([1, 1, 1, 2, 3])
    return self.clamped(sketch.depthwise(self.sketch, x, multiplier=times, **self.window(x)))

  def dense(self, x):
    made = sketch.dense(self.sketch, x, self.number(1, 12), whole=self.pick([False, True]))
    return self.clamped(made)

  def add(self, x):
    like = [t for t in range(len(self.sketch.tensors)) if self.shape(t) == self.shape(x)]
    return self.clamped(sketch.add(self.sketch, x, self.pick(like)))

  def mul(self, x):
    shapes = self.shape(x), (1, 1, self.shape(x)[2])
    like = [t for t in range(len(self.sketch.tensors)) if self.shape(t) in shapes]
    return self.clamped(sketch.mul(self.sketch, x, self.pick(like)))

  def pool(self, x):
    how = self.pick(['average', 'max'])
    window = self.window(x, poolings=how == 'average')
    return self.clamped(sketch.pool(self.sketch, x, how, **window))

  def mean(self, x):
    return sketch.mean(self.sketch, x, self.pick([(0, 1), (0, 1), (0,), (1,)]))

  def softmax(self, x):
    """Of 512 values at most: of more, equal ones make TFLite shift 32 bits by 32."""
    if self.shape(x)[2] > 512:
      return x
    beta = self.pick([1.0, 0.5, 3.0])
    factor, least = scales.softmax(beta * self.sketch.tensors[x].scale)
    fields = dict(factor=factor, least=least)
    return sketch.append(self.sketch, g.Softmax, [x], self.shape(x), *scales.SHARES, **fields)

  def lookup(self, x):
    """RELU6 keeps its scale: TFLM's does not rescale."""
    s, before = self.sketch, self.sketch.tensors[x]
    other = sketch.some(s, 0.01, 0.05), self.number(-128, 127)
    make, shares = self.pick([
      (scales.logistic, scales.SHARES), (scales.rescaled, other),
      (functools.partial(scales.clamped, scales.RELU), other),
      (functools.partial(scales.clamped, scales.RELU6), (before.scale, before.zero)),
    ])  # fmt: skip
    table = make(before, g.Tensor('after', before.shape, *shares))
    return sketch.append(s, g.Lookup, [x], before.shape, *shares, table=table)

  def excited(self, x):
    """Squeeze and excitation, of dense layers or of pointwise ones."""
    s, c = self.sketch, self.shape(x)[2]
    y = sketch.mean(s, x)
    if self.pick([True, False]):
      y = sketch.dense(s, self.clamped(sketch.dense(s, y, 3)), c)
    else:
      y = sketch.conv(s, self.clamped(sketch.conv(s, y, 3)), c)
    after = g.Tensor('after', (1, 1, c), *scales.SHARES)
    table = scales.logistic(s.tensors[y], after)
    gate = sketch.append(s, g.Lookup, [y], (1, 1, c), *scales.SHARES, table=table)
    return sketch.mul(s, x, gate)

  def padded(self, x):
    h, w, c = self.shape(x)
    pad = tuple(self.number(0, 2) for _ in range(4))
    shape = h + pad[0] + pad[1], w + pad[2] + pad[3], c
    made = sketch.copied(self.sketch, g.Pad, [x], shape, pad=pad)
    # something between it and a product, into which it would be folded
    return sketch.pool(self.sketch, made, 'average', kernel=1, stride=1)

  def reshape(self, x):
    h, w, c = self.shape(x)
    shape = self.pick([(w, h, c), (h * w, 1, c), (h, 1, w * c), (1, 1, h * w * c)])
    if shape == (h, w, c):
      return x
    return sketch.copied(self.sketch, g.Reshape, [x], shape)

  def concat(self, x):
    """Of tensors brought to the scale of the first."""
    s, first = self.sketch, self.sketch.tensors[x]
    like = [t for t in range(len(s.tensors)) if self.shape(t)[:2] == first.shape[:2]]
    joined = [x]
    for t in (self.pick(like) for _ in range(self.number(1, 2))):
      if (s.tensors[t].scale, s.tensors[t].zero) != (first.scale, first.zero):
        table = scales.rescaled(s.tensors[t], first)
        t = sketch.append(
          s, g.Lookup, [t], self.shape(t), first.scale, first.zero, table=table)  # fmt: skip
      joined.append(t)
    shape = *first.shape[:2], sum(self.shape(t)[2] for t in joined)
    return sketch.copied(s, g.Concat, joined, shape)

  def resize(self, x):
    h, w, c = self.shape(x)
    shape, how = (self.number(1, 9), self.number(1, 9), c), self.pick(
      [(False, False), (True, False), (False, True)])  # fmt: skip
    rows, columns = (scales.nearest(a, b, *how) for a, b in zip((h, w), shape))
    return sketch.copied(self.sketch, g.Resize, [x], shape, rows=rows, columns=columns)

  KINDS = (conv, pointwise, depthwise, dense, add, mul, pool, mean, softmax, lookup, excited,
           padded, reshape, concat, resize)  # fmt: skip


def build(seed: int, *, longest: int = 6) -> g.Graph:
  """A graph of up to `longest` random steps; its outputs are what nothing reads."""
  made = Maker(seed)
  x = 0
  for _ in range(made.number(1, longest)):
    x = made.pick(made.KINDS)(made, x)
    if np.prod(made.shape(x)) > 3_000:
      break
  if not made.sketch.ops:
    x = made.pointwise(x)
  read = {i for op in made.sketch.ops for i in op.inputs}
  ends = [op.output for op in made.sketch.ops if op.output not in read]
  return sketch.finish(made.sketch, f'random{seed}', *ends)
