"""A `Graph` and its `Plan` as one C99 source and its header (templates of Jinja2).

The C uses no heap and no globals; its constants are in Flash, everything else in an arena that the
caller gives. Each kernel is compiled for its sizes: they are literals where it is inlined. An op is
an entry of STEPS, which names a kernel of templates/kernels.c.j2 and its arguments.
"""

import functools
import re
from typing import NamedTuple

import numpy as np

from reduction.errors import require
from reduction.mcu import interpret, overlap
from reduction.mcu.graph import (
  Add,
  Concat,
  Conv,
  Crop,
  Dense,
  Depthwise,
  Graph,
  Lookup,
  Mean,
  Mul,
  Pad,
  Paste,
  Pool,
  Product,
  Reshape,
  Resize,
  Softmax,
  largest_sums,
)  # fmt: skip
from reduction.mcu.plan import Plan
from reduction.mcu.sparse import Sparse
from reduction.mcu.wrap import broken

RESERVED = {'main', 'int', 'char', 'short', 'long', 'float', 'double', 'signed', 'unsigned',
            'void', 'const', 'static', 'register', 'volatile', 'auto', 'extern', 'return', 'if',
            'else', 'for', 'while', 'do', 'switch', 'case', 'default', 'break', 'continue', 'goto',
            'sizeof', 'struct', 'union', 'enum', 'typedef', 'inline', 'restrict'}  # fmt: skip


class Code(NamedTuple):
  """How the C is written. Switches for ablations; the defaults are what is fastest.

  specialized: a kernel is compiled for each of its sizes, else once. unrolled: its inner loops.
  dual: two 16-bit products a step where the core has them. helium: vectors of 16 bytes likewise.
  """

  specialized: bool = True
  unrolled: bool = True
  dual: bool = True
  helium: bool = True


FASTEST = Code()


class Source(NamedTuple):
  """name: a C identifier, of files too. files: name -> text. constants: bytes of Flash for data."""

  name: str
  files: dict[str, str]
  constants: int


class Step(NamedTuple):
  """What one op becomes: arrays to define, the kernel's call, what a caller passes to it."""

  arrays: list[tuple[str, np.ndarray]]
  kernel: str  # of templates/kernels.c.j2
  parameters: str
  call: str  # its text is what tells functions apart
  arguments: list[str]
  before: tuple[str, ...] = ()


def identifier(name: str) -> str:
  """A C identifier from any text: 'a b/c' -> 'a_b_c', '3x' -> 'net_3x'."""
  clean = re.sub(r'_+', '_', re.sub(r'[^0-9a-z]', '_', name.lower())).strip('_')[:40] or 'net'
  return f'net_{clean}' if clean[0].isdigit() or clean in RESERVED else clean


def comment(text: str) -> str:
  """Text that is safe within a C comment."""
  return re.sub(r'[^0-9A-Za-z_.:; ()\[\]-]|\?', '_', text)[:70]


def emit(graph: Graph, plan: Plan, name: str | None = None, code: Code = FASTEST) -> Source:
  """The net's source and header. name: of functions, macros and files, by default the graph's."""
  name = identifier(name or graph.name)
  steps = [_step(graph, plan, i) for i in range(len(graph.ops))]
  steps = [_shared(step, i, home) for i, (step, home) in enumerate(zip(steps, homes(graph)))]
  arrays = [_array(n, values) for step in steps for n, values in step.arrays]
  functions, lines = {}, []
  for op, step in zip(graph.ops, steps):
    key = step.parameters, step.call
    if step.kernel:
      called = f'{step.kernel}_{len(functions)}'
      alone = 'ALONE ' if isinstance(op, Sparse) else ''
      functions.setdefault(key, dict(
        name=called, head=broken(f'static {alone}void {called}({step.parameters})', after=' {'),
        body=[broken(call, 2, ';') for call in step.call.split(';')],
      ))  # fmt: skip
      inside = 4 if step.before else 2  # what a call needs is of its block alone
      call = broken(f'{functions[key]["name"]}({", ".join(step.arguments)})', inside, ';')
      before = [f'    {line}' for line in step.before]
      text = ['  {', *before, call, '  }'] if before else [call]
    else:
      text = [f'  {line}' for line in step.before]
    lines.append(dict(comment=f'{op.kind} {comment(op.name)}', lines=text))
  values = dict(
    name=name, NAME=name.upper(), comment=comment(graph.name), ops=len(graph.ops),
    macs=sum(map(graph.macs, graph.ops)), arena=plan.peak, bound=plan.bound,
    align=max(plan.style.align, 4), constants=sum(a['size'] for a in arrays), arrays=arrays,
    functions=list(functions.values()), steps=lines, ends=_ends(graph, plan),
    uses=_uses(graph, steps), code=code, wide=plan.style.wide, pixels=plan.style.pixels,
    most_taps=max([op.weights[..., 0].size for op in graph.ops if isinstance(op, Depthwise)] + [1]),
    most_rows=max([len(op.weights) for op in graph.ops if isinstance(op, Depthwise)] + [1]),
  )  # fmt: skip
  render = lambda template: re.sub(r'\n{3,}', '\n\n', _environment().get_template(template).render(
    values))  # fmt: skip
  files = {f'{name}.c': render('net.c.j2'), f'{name}.h': render('net.h.j2')}
  return Source(name, files, values['constants'])


@functools.lru_cache(maxsize=1)
def _environment():
  import jinja2

  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('reduction.mcu'), trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False,
  )  # fmt: skip
  environment.globals['broken'] = broken
  return environment


def template(file: str, **values) -> str:
  """The text of a template."""
  return _environment().get_template(file).render(values)


def _uses(graph, steps) -> set[str]:
  kinds = {step.kernel for step in steps}
  dense = any(isinstance(op, Product) for op in graph.ops)
  needs = dict(fwcs={'filterlets'}, bitmap={'filterlets', 'sets'}, csr={'column'},
               wide={'filterlets'})  # fmt: skip
  needs['paired'] = needs['bitmap']
  more = set().union(*(needs.get(kind, ()) for kind in kinds))
  return kinds | more | ({'product'} if dense else set())


def _array(name: str, values: np.ndarray) -> dict:
  """A constant array as text, 100 columns wide."""
  flat = values.reshape(-1).tolist()
  per_line = 24 if values.dtype.itemsize == 1 else 8
  chunks = (', '.join(map(str, flat[i : i + per_line])) for i in range(0, len(flat), per_line))
  text = ',\n'.join(f'    {chunk}' for chunk in chunks)
  kind = f'{values.dtype.name}_t'
  return dict(name=name, type=kind, count=len(flat), text=text, size=values.nbytes)


def _ends(graph, plan):
  for what, tensors in (('INPUT', graph.inputs), ('OUTPUT', graph.outputs)):
    for i, t in enumerate(tensors):
      tensor = graph.tensors[t]
      yield dict(
        what=f'{what}_{i}', comment=comment(tensor.name), shape=tensor.shape, size=tensor.size,
        offset=plan.offsets[t], scale=float(np.float32(tensor.scale)), zero=tensor.zero,
      )  # fmt: skip


def _step(graph, plan, index) -> Step:
  op = graph.ops[index]
  tensors = [graph.tensors[t] for t in op.inputs], graph.tensors[op.output]
  at = [f'arena + {plan.offsets[t]}' for t in (*op.inputs, op.output)]
  made = STEPS[type(op)](op, *tensors, at, index, plan)
  return made


def homes(graph: Graph) -> list[int]:
  """For each op the first that has the same constants: those of patches are one op's."""
  first = {}
  return [
    first.setdefault(id(getattr(op, 'weights', getattr(op, 'table', op))), i)
    for i, op in enumerate(graph.ops)
  ]


def _shared(step: Step, index: int, home: int) -> Step:
  """A step that reads the arrays of op `home`."""
  if home == index:
    return step
  names = {name: f'{name.rpartition("_")[0]}_{home}' for name, _ in step.arrays}
  renamed = lambda text: re.sub(r'\b\w+\b', lambda m: names.get(m[0], m[0]), text)
  return step._replace(
    arrays=[], before=tuple(map(renamed, step.before)), arguments=list(map(renamed, step.arguments))
  )


def _numbers(*values) -> str:
  return ', '.join(str(int(v)) for v in values)


IN_OUT = 'const int8_t *x, int8_t *y'


def _product(op, inputs, output, at, index, plan, *, kernel, sizes, weights, folded=True) -> Step:
  """A step of weights; folded: the input's zero point goes into the bias."""
  bias = op.bias.astype(np.int64)
  if folded:
    axes = (0, 1) if isinstance(op, Depthwise) else tuple(range(1, op.weights.ndim))
    bias = bias - inputs[0].zero * op.weights.astype(np.int64).sum(axes)
  most = largest_sums(op).max()
  down = op.shift.max() < 0 and most < 2**29
  careful = (largest_sums(op) << np.maximum(op.shift, 0)).max() >= 2**29
  names = [f'{part}_{index}' for part in ('weights', 'bias', 'multiplier', 'shift')]
  values = weights, bias.astype(np.int32), op.multiplier, op.shift.astype(np.int8)
  struct = f'const product_t p = {{{", ".join(names)}, {output.zero}, {inputs[0].zero}}};'
  scratch = plan.scratch.get(index)
  arguments = [*at, f'arena + {scratch[0]}' if scratch else '0', '&p']
  kind = 'ring_t' if kernel == 'depthwise' else 'int8_t'
  if kernel == 'depthwise':
    arguments[2] = f'(ring_t *)(void *)({arguments[2]})'
  numbers = _numbers(*sizes, op.low, op.high, down, careful)
  given = f'{IN_OUT}, {kind} *scratch, const product_t *p'
  call = f'{kernel}(x, y, scratch, p, {numbers})'
  if kernel == 'pointwise' and not scratch:
    given, call = f'{IN_OUT}, const product_t *p', f'{kernel}(x, y, 0, p, {numbers})'
    arguments.pop(2)
  if kernel == 'outputs':
    given, call = f'{IN_OUT}, const product_t *p', f'{kernel}(x, y, p, {numbers})'
    arguments.pop(2)
  return Step(list(zip(names, values)), kernel, given, call, arguments, (struct,))


def _window(op, inputs, output) -> tuple:
  (h, w, cin), (oh, ow, cout) = inputs[0].shape, output.shape
  (kh, kw), (sh, sw), (top, _, left, _) = op.window.kernel, op.window.stride, op.window.pad
  return h, w, cin, oh, ow, cout, kh, kw, sh, sw, top, left


def _conv(op, inputs, output, at, index, plan) -> Step:
  make = functools.partial(_product, op, inputs, output, at, index, plan, weights=op.weights)
  if op.pointwise:
    h, w, cin = inputs[0].shape
    return make(kernel='pointwise', sizes=(h * w, cin, output.shape[2]))
  return make(kernel='conv', sizes=_window(op, inputs, output))


def _sparse(op, inputs, output, at, index, plan) -> Step:
  """A convolution of stored filterlets: what says where they belong goes along."""
  require(plan.style.align % 4 == 0, f'{op.name}: a sparse convolution needs tensors aligned to 4')
  stored = op.stored()
  sizes = *_window(op, inputs, output), op.columns
  step = _product(op, inputs, output, at, index, plan, kernel=op.form, sizes=sizes,
                  weights=stored.values)  # fmt: skip
  more = [(f'{part}_{index}', values) for part, values in
          (('places', stored.places), ('starts', stored.starts)) if len(values)]  # fmt: skip
  names = ('places', 'starts')[: len(more)]
  types = [f'const {values.dtype.name}_t *{name}' for name, (_, values) in zip(names, more)]
  call = step.call.replace('p, ', f'p, {"".join(f"{n}, " for n in names)}', 1)
  return step._replace(
    arrays=step.arrays + more, parameters=', '.join([step.parameters, *types]), call=call,
    arguments=[*step.arguments, *(name for name, _ in more)],
  )  # fmt: skip


def _depthwise(op, inputs, output, at, index, plan) -> Step:
  rows, columns = overlap.rows_kept(op, output.shape, plan.style)
  return _product(
    op, inputs, output, at, index, plan, kernel='depthwise', folded=not plan.style.wide,
    weights=np.ascontiguousarray(op.weights.transpose(2, 0, 1)),
    sizes=(*_window(op, inputs, output), rows, columns),
  )  # fmt: skip


def _dense(op, inputs, output, at, index, plan) -> Step:
  sizes = inputs[0].size, output.shape[2], 1  # depth, filters, columns
  return _product(
    op, inputs, output, at, index, plan, kernel='outputs', sizes=sizes, weights=op.weights
  )


def _add(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  zeros = *(t.zero for t in inputs), output.zero
  factors = (f'(factor_t){{{_numbers(*factor, zero)}}}' for factor, zero in zip(op.factors, zeros))
  names = 'fa', 'fb', 'fy'
  given = ', '.join(
    ['const int8_t *a, const int8_t *b, int8_t *y', *(f'factor_t {n}' for n in names)]
  )
  call = f'add(a, b, y, {output.size}, fa, fb, fy, {_numbers(op.low, op.high)})'
  return Step([], 'add', given, call, [*at, *factors])


def _mul(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  zeros = (t.zero for t in inputs)
  numbers = _numbers(output.size, inputs[1].size, *zeros, *op.factor, output.zero, op.low, op.high)
  return Step(
    [], 'mul', 'const int8_t *a, const int8_t *b, int8_t *y', f'mul(a, b, y, {numbers})', at
  )


def _pool(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  h, w, c, oh, ow, _, *rest = _window(op, inputs, output)
  numbers = _numbers(h, w, c, oh, ow, *rest, op.how == 'average', op.low, op.high)
  return Step([], 'pool', IN_OUT, f'pool(x, y, {numbers})', at)


def _mean(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  factor = interpret.mean_factor(op, inputs[0].shape)
  over = 0 in op.axes, 1 in op.axes
  numbers = _numbers(*inputs[0].shape, *over, inputs[0].zero, *factor, output.zero)
  return Step([], 'mean', IN_OUT, f'mean(x, y, {numbers})', at)


def _softmax(op, inputs, output, at, index, plan) -> Step:
  del inputs, index, plan
  h, w, c = output.shape
  numbers = _numbers(h * w, c, *op.factor, op.least)
  return Step([], 'softmax', IN_OUT, f'softmax(x, y, {numbers})', at)


def _lookup(op, inputs, output, at, index, plan) -> Step:
  del inputs, plan
  given = f'{IN_OUT}, const int8_t *table'
  arrays = [(f'table_{index}', op.table)]
  return Step(
    arrays, 'lookup', given, f'lookup(x, y, {output.size}, table)', [*at, f'table_{index}']
  )


def _pad(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  (h, w, c), (top, bottom, left, right) = inputs[0].shape, op.pad
  numbers = _numbers(h, w * c, top, bottom, left * c, right * c, output.zero)
  return Step([], 'padded', IN_OUT, f'padded(x, y, {numbers})', at)


def _reshape(op, inputs, output, at, index, plan) -> Step:
  del op, inputs
  lines = () if index in plan.over else (f'memcpy({at[1]}, {at[0]}, {output.size});',)
  return Step([], '', '', '', [], lines)


def _concat(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  h, w, c = output.shape
  starts = np.cumsum([0] + [t.shape[2] for t in inputs])
  names = [f'x{i}' for i in range(len(inputs))]
  given = ', '.join([*(f'const int8_t *{n}' for n in names), 'int8_t *y'])
  calls = [
    f'joined({n}, y, {_numbers(h * w, t.shape[2], c, start)})'
    for n, t, start in zip(names, inputs, starts)
  ]
  return Step([], 'joined', given, ';'.join(calls), at)


def _resize(op, inputs, output, at, index, plan) -> Step:
  del plan
  names = f'rows_{index}', f'columns_{index}'
  values = np.array(op.rows, np.int16), np.array(op.columns, np.int16)
  given = f'{IN_OUT}, const int16_t *rows, const int16_t *columns'
  (_, w, c), (oh, ow, _) = inputs[0].shape, output.shape
  call = f'resized(x, y, {_numbers(w, c, oh, ow)}, rows, columns)'
  return Step(list(zip(names, values)), 'resized', given, call, [*at, *names])


def _crop(op, inputs, output, at, index, plan) -> Step:
  del index, plan
  (_, w, c), (oh, ow, _), (y, x) = inputs[0].shape, output.shape, op.at
  numbers = _numbers(oh, ow * c, w * c, ow * c)
  start = f'{at[0]} + {(y * w + x) * c}'
  return Step([], 'copied', IN_OUT, f'copied(x, y, {numbers})', [start, at[1]])


def _paste(op, inputs, output, at, index, plan) -> Step:
  require(len(inputs) == 1 or index in plan.over, f'{op.name}: has no plan in place')
  (h, w, c), (_, ow, _), (y, x) = inputs[-1].shape, output.shape, op.at
  numbers = _numbers(h, w * c, w * c, ow * c)
  to = f'{at[-1]} + {(y * ow + x) * c}'
  return Step([], 'copied', IN_OUT, f'copied(x, y, {numbers})', [at[-2], to])


STEPS = {
  Conv: _conv, Sparse: _sparse, Depthwise: _depthwise, Dense: _dense, Add: _add, Mul: _mul,
  Pool: _pool, Mean: _mean, Softmax: _softmax, Lookup: _lookup, Pad: _pad, Reshape: _reshape,
  Concat: _concat, Resize: _resize, Crop: _crop, Paste: _paste,
}  # fmt: skip
