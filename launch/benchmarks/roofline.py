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
  s and what binds. Rows 'roofline_part': bytes of weights and activations of a token. Rows
  'roofline_measured': seconds of both stages.
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
      ran = run(measured, session, prompt, answer)
      rows += ran
      tables.append(table_of_measured(ran, prompt, answer))
    return rows, tables

  return bench


def weight_bytes(sizes: Sizes, bits: int, group: int) -> float:
  """Bytes of the blocks' weights and of the last layer."""
  packed = bits / 8 + (0 if bits == 16 else (HALF + 1) / group)
  return sizes.linears * packed + HALF * sizes.head


def stages(sizes: Sizes, prompt: int, answer: int, weights: float, flops: float, bytes: float):
  """dict(stage, flops, bytes, flops_per_byte, s, bound) of the prompt and of the whole answer."""
  keys = sizes.width // sizes.heads * sizes.kv_heads

  def of(stage, passes, tokens, before):
    seen = before + tokens  # keys that a pass reads
    work = 2 * (sizes.linears * tokens + sizes.head)
    work += 4 * sizes.layers * sizes.width * tokens * (before + (tokens + 1) / 2)
    moved = weights + HALF * sizes.layers * (2 * keys * seen + traffic(sizes) * tokens)
    work, moved = passes * work, passes * moved
    compute, memory = work / flops, moved / bytes
    bound = 'compute' if compute > memory else 'memory'
    return dict(
      stage=stage, flops=round(work), bytes=round(moved), flops_per_byte=round(work / moved, 2),
      s=max(compute, memory), bound=bound,
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


def run(model: str, session: Session, prompt: int, answer: int) -> list[dict]:
  """Rows 'roofline_measured' of the model as it is, and in 4 bits, rounded to the nearest."""
  import jax

  from reduction.chat.runtime import Runtime
  from reduction.chat.sampling import Sampling
  from reduction.opened import language_model

  net, rows = language_model(model, session.data_dir).net, []
  for weights in 'float32', 'INT4':
    net = net if weights == 'float32' else rounded(net)
    runtime, tokens = Runtime(net, context=prompt + answer + 1), list(range(1, prompt + 1))
    for _ in range(2):  # the first compiles
      runtime.forget()
      with contextlib.closing(
        runtime.continued(tokens, Sampling(), jax.random.key(0), most=answer)
      ) as written:
        for _ in written:
          pass
    told = runtime.times
    rows.append(dict(
      kind='roofline_measured', summary=True, model=model, weights=weights,
      prompt_s=told['read_s'], answer_s=told['wrote_s'], written=told['wrote'],
      bytes_per_token=runtime.bytes_per_token(),
    ))  # fmt: skip
    session.say(f'roofline: {model}, {weights}')
  return rows


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
  """A line for each kind of weights."""
  cells = tuple(
    (
      row['weights'], f'{1e3 * row["prompt_s"]:.0f}', f'{1e3 * row["answer_s"]:.0f}',
      f'{row["written"] / row["answer_s"]:.1f}', f'{row["bytes_per_token"] / 1e6:.0f}',
    )
    for row in rows
  )  # fmt: skip
  columns = 'weights', 'prompt, ms', 'answer, ms', 'tokens a second', 'MB a token'
  note = f'A prompt of {prompt} tokens, an answer of {answer}; the second of two runs, here.'
  return Table(f'Measured: {rows[0]["model"]}', columns, cells, note)
