"""Why few-bit weights help one user and not many: a language model on the roofline.

The three panels of Lin et al. 2024, figure 3: how long reading a prompt and writing an answer take,
operations a byte of both on the roofline, bytes of weights beside those of activations. Of any
model from its sizes alone; of one that is there also measured.
"""

import contextlib
from typing import NamedTuple

from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.report import Table

HALF = 2  # bytes of an activation, of a weight that is not packed, of a key or value


class Sizes(NamedTuple):
  """A decoder of the Llama family."""

  layers: int
  width: int
  heads: int
  kv_heads: int
  inner: int
  vocabulary: int

  @property
  def attention(self) -> int:
    """Weights of the four linears of one attention."""
    keys = self.width // self.heads * self.kv_heads
    return 2 * self.width**2 + 2 * self.width * keys

  @property
  def mlp(self) -> int:
    """Weights of one gated MLP."""
    return 3 * self.width * self.inner

  @property
  def linears(self) -> int:
    """Weights of all blocks."""
    return self.layers * (self.attention + self.mlp)

  @property
  def head(self) -> int:
    """Weights of the last layer."""
    return self.width * self.vocabulary


def roofline(
  *, models: dict, devices: dict, prompt: int, answer: int, bits: tuple[int, ...], group: int,
  measured: str = '',
):  # fmt: skip
  """Counts and bounds of reading a prompt at once and of writing an answer, a token at a time.

  models: name -> `Sizes`; devices: name -> dict(flops=a second, bytes=a second). bits: of the
  blocks' weights, 16 or fewer in groups of that many rows with a float16 and a byte each; the last
  layer has 16. measured: a model folder or file that is also run here, where one is given. Rows
  'roofline': stage 'prompt' or 'answer' of a model on a device; flops, bytes and their ratio, bound
  s, gflops a second at it and what binds. Rows 'roofline_part': bytes of weights and activations of
  a token, of the model that is here those of its own traced program. Rows 'roofline_measured': a
  stage's seconds here, its operations a byte and a second, and their share of what this machine's
  roofline allows: `limit_gflops` of a large product, `limit_gb` of reading by the native kernel;
  stage 'limit': that roofline itself.
  """
  require(min(prompt, answer, *bits) > 0, f'{prompt=}, {answer=} and {bits=} must be above 0')
  sizes = {name: Sizes(**given) for name, given in models.items()}

  def bench(session: Session):
    rows = [
      dict(kind='roofline', summary=True, model=name, device=device, bits=b, **found)
      for name, one in sizes.items() for device, limits in devices.items() for b in bits
      for found in stages(one, prompt, answer, weight_bytes(one, b, group), **limits)
    ]  # fmt: skip
    rows += [part for name, one in sizes.items() for part in parts(name, one)]
    tables = [table_of_stages(rows, prompt, answer), table_of_parts(rows)]
    if measured:
      ran, moved = run(measured, session, prompt, answer)
      rows += moved + ran
      tables[1:] = [table_of_parts(rows), table_of_measured(ran, prompt, answer)]
    return rows, tables

  return bench


def weight_bytes(sizes: Sizes, bits: int, group: int) -> float:
  """Bytes of the blocks' weights and of the last layer."""
  packed = bits / 8 + (0 if bits == 16 else (HALF + 1) / group)
  return sizes.linears * packed + HALF * sizes.head


def stages(sizes: Sizes, prompt: int, answer: int, weights: float, flops: float, bytes: float):
  """dict(stage, flops, bytes, flops_per_byte, s, gflops, bound) of the prompt and of the answer."""
  keys = sizes.width // sizes.heads * sizes.kv_heads

  def of(stage, passes, tokens, before):
    seen = before + tokens  # keys that a pass reads
    work = 2 * (sizes.linears * tokens + sizes.head)
    work += 4 * sizes.layers * sizes.width * tokens * (before + (tokens + 1) / 2)
    moved = weights + HALF * sizes.layers * (2 * keys * seen + traffic(sizes) * tokens)
    work, moved = passes * work, passes * moved
    compute, memory = work / flops, moved / bytes
    bound = 'compute' if compute > memory else 'memory'
    s = max(compute, memory)
    return dict(
      stage=stage, flops=round(work), bytes=round(moved), flops_per_byte=round(work / moved, 2),
      s=s, gflops=round(work / s / 1e9, 1), bound=bound,
    )  # fmt: skip

  return [of('prompt', 1, prompt, 0), of('answer', answer, 1, prompt + answer / 2)]


def traffic(sizes: Sizes) -> int:
  """Numbers that the linears of one block read and write for a token."""
  return sum(activations(sizes).values())


def activations(sizes: Sizes) -> dict[str, int]:
  """Numbers that linears read and write for a token: of attention, of the MLP."""
  keys = sizes.width // sizes.heads * sizes.kv_heads
  return dict(
    attention=2 * sizes.width + sizes.width + 2 * keys + sizes.width,
    mlp=sizes.width + 2 * sizes.inner + sizes.inner + sizes.width,
  )


def parts(name: str, sizes: Sizes) -> list[dict]:
  """Rows 'roofline_part' of one block, in 16 bits."""
  moved = activations(sizes)
  return [
    dict(kind='roofline_part', summary=True, model=name, part=part,
         weight_bytes=HALF * getattr(sizes, part), activation_bytes=HALF * moved[part])
    for part in ('attention', 'mlp')
  ]  # fmt: skip


def rounded(net, group: int = 64):
  """The net with the kernels of its blocks in 4 bits, in groups of so many rows."""
  import numpy as np

  from reduction import tree
  from reduction.models.served import Served
  from reduction.net import Net
  from reduction.qtensor import Scheme
  from reduction.quantize.rtn import quantize

  def packed(path, w):
    block = path.startswith('layer') and path.endswith('/kernel')
    return quantize(np.asarray(w), Scheme(4, group), dtype=np.float16) if block else w

  return Net(Served(net.module), tree.map_named(packed, net.params))


def run(model: str, session: Session, prompt: int, answer: int) -> tuple[list, list]:
  """Rows 'roofline_measured' of the model as it is and in 4 bits, rounded to the nearest; rows
  'roofline_part' of its program."""
  from launch.benchmarks.ours import limit
  from reduction.opened import language_model

  net = language_model(model, session.data_dir).net
  sizes, rows = Sizes(*(getattr(net.module, name) for name in Sizes._fields)), []
  limits = dict(flops=1e9 * max(limit() for _ in range(3)), bytes=reading())
  for weights in 'float32', 'INT4':
    own = net if weights == 'float32' else rounded(net)
    took, size = timed(own, prompt, answer)
    for stage in stages(sizes, prompt, answer, size, **limits):
      s = took[stage['stage']]
      rows.append(dict(
        kind='roofline_measured', summary=True, model=model, weights=weights, weight_bytes=size,
        stage=stage['stage'], s=s, flops_per_byte=stage['flops_per_byte'],
        gflops=round(stage['flops'] / s / 1e9, 2), gb_per_s=round(stage['bytes'] / s / 1e9, 2),
        limit_gflops=round(limits['flops'] / 1e9, 1), limit_gb=round(limits['bytes'] / 1e9, 1),
        bound=stage['bound'], of_limit=round(stage['s'] / s, 4),
      ))  # fmt: skip
    session.say(f'roofline: {model}, {weights}')
  for ratio in 0.25, limits['flops'] / limits['bytes'], 256:
    most = min(limits['flops'], ratio * limits['bytes'])
    rows.append(dict(
      kind='roofline_measured', summary=True, model=model, weights='this machine', stage='limit',
      flops_per_byte=round(ratio, 3), gflops=round(most / 1e9, 2),
    ))  # fmt: skip
  return rows, program_parts(f'{model}, traced', net)


def timed(net, prompt: int, answer: int) -> tuple[dict, int]:
  """(seconds of a prompt and of an answer, the best of three after one that compiles, bytes of
  weights that a token reads); a packed net's words are in 8 bits"""
  import jax

  from reduction.chat.runtime import Runtime
  from reduction.chat.sampling import Sampling
  from reduction.models.served import Served

  head = 8 if isinstance(net.module, Served) else None
  runtime, tokens = Runtime(net, context=prompt + answer + 1, head=head), list(range(1, prompt + 1))
  found = []
  for _ in range(4):
    runtime.forget()
    size = runtime.bytes_per_token()  # nothing is remembered yet
    # the end of the prompt gives the first token: answer passes follow
    how = dict(most=answer + 1)
    with contextlib.closing(
      runtime.continued(tokens, Sampling(), jax.random.key(0), **how)
    ) as written:
      for _ in written:
        pass
    found.append((runtime.times['read_s'], runtime.times['wrote_s']))
  reads, writes = zip(*found[1:])
  return dict(prompt=min(reads), answer=min(writes)), size


def reading() -> float:
  """Bytes a second that the native kernel reads, the best of five."""
  import time

  import jax
  import jax.numpy as jnp

  from reduction.kernels import native

  require(native.ready(), 'the native kernel is not there: install g++')
  data, read, found = jnp.ones(2**28, jnp.uint8), jax.jit(native.read), []
  for _ in range(6):
    began = time.perf_counter()
    jax.block_until_ready(read(data))
    found.append(data.nbytes / (time.perf_counter() - began))
  return max(found)


def program_parts(name: str, net) -> list[dict]:
  """Rows 'roofline_part' of a mean block of a net, of the products in the program of one token."""
  import math

  import jax
  import jax.numpy as jnp

  from reduction.quantize.program import Value, trace

  one = jax.eval_shape(lambda t: jax.tree.map(lambda w: w[0], t), net.params)
  program = trace(net.module, one, jax.ShapeDtypeStruct((1, 1), jnp.int32))
  size = lambda value: HALF * math.prod(value.shape)
  moved = {part: [0, 0] for part in ('attention', 'mlp')}
  for step in program.steps:
    values = [v for v in (*step.ins, *step.outs) if isinstance(v, Value)]
    weight = next((v for v in values if program.names.get(v, '').endswith('/kernel')), None)
    part = next((p for p in moved if weight and f'/{p}/' in program.names[weight]), None)
    if part:
      moved[part][0] += size(weight)
      moved[part][1] += sum(size(v) for v in values if v is not weight)
  return [
    dict(kind='roofline_part', summary=True, model=name, part=part,
         weight_bytes=weights // net.module.layers, activation_bytes=others // net.module.layers)
    for part, (weights, others) in moved.items()
  ]  # fmt: skip


def table_of_stages(rows: list[dict], prompt: int, answer: int) -> Table:
  """A line for each model, device, bits and stage: panels (a) and (b)."""
  chosen = [row for row in rows if row['kind'] == 'roofline']
  cells = tuple(
    (
      row['model'], row['device'], str(row['bits']), row['stage'], f'{row["flops"] / 1e9:,.0f}',
      f'{row["bytes"] / 1e9:,.1f}', f'{row["flops_per_byte"]:,.3g}', f'{1e3 * row["s"]:,.1f}',
      row['bound'],
    )
    for row in chosen
  )  # fmt: skip
  columns = ('model', 'device', 'bits', 'stage', 'GFLOP', 'GB', 'FLOP a byte', 'at least, ms',
             'bound by')  # fmt: skip
  note = (
    f'A prompt of {prompt} tokens read at once, an answer of {answer} tokens, one by one. From '
    'sizes alone: a device does all operations and moves all bytes at its stated pace.'
  )
  return Table('On the roofline', columns, cells, note)


def table_of_parts(rows: list[dict]) -> Table:
  """A line for each model and part: panel (c)."""
  cells = tuple(
    (
      row['model'], row['part'], f'{row["weight_bytes"] / 1e6:,.0f}',
      f'{row["activation_bytes"] / 1e6:.2f}',
      f'{row["weight_bytes"] / row["activation_bytes"]:,.0f}',
    )
    for row in rows if row['kind'] == 'roofline_part'
  )  # fmt: skip
  columns = 'model', 'part of a block', 'weights, MB', 'activations, MB', 'times as many'
  note = 'Bytes that a token moves in 16 bits: inputs and outputs of the linears.'
  return Table('Weights beside activations', columns, cells, note)


def table_of_measured(rows: list[dict], prompt: int, answer: int) -> Table:
  """A line for each kind of weights and stage: panels (a) and (b), measured."""
  cells = tuple(
    (
      row['weights'], row['stage'], f'{1e3 * row["s"]:.0f}', f'{row["flops_per_byte"]:,.3g}',
      f'{row["gflops"]:,.1f}', f'{row["gb_per_s"]:,.1f}', row['bound'], f'{row["of_limit"]:.0%}',
    )
    for row in rows if row['stage'] != 'limit'
  )  # fmt: skip
  columns = ('weights', 'stage', 'ms', 'FLOP a byte', 'GFLOP/s', 'GB/s', 'bound by', 'of the limit')
  one = rows[0]
  note = (
    f'A prompt of {prompt} tokens, an answer of {answer}, the best of three, here: a large product '
    f'reaches {one["limit_gflops"]:.0f} GFLOP/s, reading {one["limit_gb"]:.0f} GB/s.'
  )
  return Table(f'Measured: {one["model"]}', columns, cells, note)
