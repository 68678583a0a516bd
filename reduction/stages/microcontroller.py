"""A net as C for a microcontroller: int8, planned, exact (Lin et al., MCUNet, NeurIPS 2020)."""

import functools

import numpy as np

from reduction.errors import require
from reduction.mcu import boards, host, interpret, latency, twin, writer
from reduction.mcu.deploy import deploy, fits, rows, write
from reduction.mcu.from_flax import convert, logits
from reduction.mcu.measure import STACK
from reduction.mcu.sparse import sparsify
from reduction.net import Net
from reduction.predict import logits as float_logits
from reduction.predict import scores
from reduction.run import Run, Stage

NAME = 'c'
COMPARED = 20  # test images
LARGE = 2e9  # multiply-adds, above which compiling the twin takes less than the interpreter


def microcontroller(
  *, board: str = 'stm32f746', images: int = 256, exact: bool = False, patches: int = 0,
  name: str = 'net', sparse: str | None = None, ram: int = 0, must_fit: bool = True,
  bits: int | None = None, of: str | None = None,
) -> Stage:  # fmt: skip
  """Quantizes the net to int8 and writes it for a board, as C and .tflite; returns what came.

  images: training examples that show the ranges, where training in integers (`qat_mcu`) left none.
  bits: of weights, see `convert`; all are stored as int8. of: the stage whose net to write, by
  default the one before. exact: the least arena for the ways to overlap that the greedy plan chose.
  patches: of `deploy`. name: of the C. sparse: convolutions of which parts are pruned are stored
  in the form of the fewest 'bytes' or, by `mcu.latency`, 'instructions' of the board's core, in an
  arena of `ram` bytes if they can be, 0: of the board's; the same net exactly. Rows: 'layer' for
  each, 'tensor' for where each lies when (the report draws memory over time), and a
  'microcontroller': bytes of arena, its lower bound, constants, instructions where the emulator is
  installed, accuracy in floats and in int8 [R], how many predictions differ [R], for how many of
  some test images the C on this machine gave the interpreter's bytes, and the bytes of the .tflite
  file, or why there is none. The files are the first seed's. Raises UsageError where the net does
  not fit; with must_fit=False the row says why, `problem`, and nothing is written.
  """
  chosen = boards.board(board)
  require(images > 0, f'{images=} must be above 0')
  require(min(patches, ram) >= 0, f'{patches=} and {ram=} must not be below 0')
  known = (None, 'bytes', 'instructions')
  require(sparse in known, f'{sparse=} is not one of {known}')

  def stage(came: Net, run: Run) -> Net:
    require(of in (None, *run.nets), f'{of=} names no stage before this one')
    net = run.nets[of] if of else came
    seen, test = run.data.train.x[:images], run.data.test
    make = functools.partial(convert, net, seen, name=name, bits=bits)
    graphs = [make(replica=r) for r in range(len(run.seeds))]
    found = np.stack([_logits(graph, test.x) for graph in graphs])
    real = float_logits(net, test.x)
    made = deploy(_stored(graphs[0], sparse, chosen, ram), chosen, exact=exact, patches=patches)
    file, why = writer.attempt(graphs[0])
    for row in rows(made):
      run.log(**row)
    if must_fit:
      fits(made)
    if run.workdir and not made.problem:
      with run.write(NAME) as folder:
        write(made, folder, file)
    run.log(
      kind='microcontroller', summary=True, seeds=run.seeds, **made.total,
      **(dict(problem=made.problem) if made.problem else {}),
      float_accuracy=scores(real, test.y)['test_accuracy'],
      int8_accuracy=scores(found, test.y)['test_accuracy'],
      changed_predictions=(found.argmax(-1) != real.argmax(-1)).sum(-1),
      compared=len(test.x[:COMPARED]), equal_in_c=_equal(made, test.x[:COMPARED]),
      tflite=file and len(file), tflite_missing=why,
    )  # fmt: skip
    return came

  return stage


def _logits(graph, x) -> np.ndarray:
  """Of the integer network; both ways give the same bits."""
  work = len(x) * sum(map(graph.macs, graph.ops))
  return (twin.logits if work > LARGE else logits)(graph, x)


def _stored(graph, sparse: str | None, board: boards.Board, ram: int):
  """graph with its convolutions in the forms that cost least; in this one for None."""
  if sparse != 'instructions':
    return sparsify(graph) if sparse else graph
  return latency.fastest(graph, latency.read(board.core), ram or board.ram - STACK)


def _equal(made, x) -> int | None:
  """For how many images the compiled C gives the interpreter's bytes; None without a compiler."""
  if not host.compiler():
    return None
  tensor = made.graph.tensors[made.graph.inputs[0]]
  codes = interpret.quantize(np.asarray(x).reshape(len(x), *tensor.shape), tensor)
  found = host.run(made.source, made.graph, codes)[0] == interpret.interpret(made.graph, codes)[0]
  return int(found.reshape(len(x), -1).all(1).sum())
