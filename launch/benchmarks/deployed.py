"""What nets take on microcontrollers: by published accounts, planned, compiled, on emulated cores.

Instructions are QEMU's, which repeat exactly; they are not time. Published figures stand beside in
the configs.
"""

import pathlib
import re
import subprocess
import sys

import numpy as np

from launch.benchmarks.sides import Session
from reduction.data import folders
from reduction.errors import MissingInput, require
from reduction.mcu import (
  accounts,
  boards,
  emit,
  host,
  interpret,
  known,
  measure,
  patches,
  reader,
  zoo,
)
from reduction.mcu.overlap import Style
from reduction.mcu.plan import plan

LIMIT = 320_000  # bytes: the memory that the slides draw as a line
PLAIN = Style(depthwise=False, pointwise=False, add=False, diagonal=False)
# what each ablation changes: the plan, the code
STYLES = dict(
  ours=Style(),
  no_depthwise=Style(depthwise=False), no_pointwise=Style(pointwise=False), no_add=Style(add=False),
  no_diagonal=Style(diagonal=False), none=PLAIN, planes=Style(ring=False), narrow=Style(wide=False),
  one_pixel=Style(pixels=1), shared=Style(shared=True),
)  # fmt: skip
CODES = dict(
  generic=emit.Code(specialized=False), rolled=emit.Code(unrolled=False),
  generic_rolled=emit.Code(specialized=False, unrolled=False), single=emit.Code(dual=False),
  no_vectors=emit.Code(helium=False),
)  # fmt: skip


def architectures(*, files: dict, folder: str = 'mcunet'):
  """What is exact of the MCUNet zoo without training.

  files: name -> (JSON file, resolution), within folder of the data directory. Rows 'architecture':
  millions of multiply-accumulates and parameters, KiB of TinyEngine's own account of its memory,
  bytes of our arena and of its lower bound.
  """

  def bench(session: Session):
    rows = []
    for name, (file, resolution) in files.items():
      graph = zoo.read(_find(f'{folder}/{file}', session), resolution=resolution)
      made, theirs = plan(graph), zoo.tinyengine(graph)
      rows.append(dict(
        kind='architecture', summary=True, model=name, macs_m=round(zoo.macs(graph) / 1e6, 2),
        parameters_m=round(zoo.parameters(graph) / 1e6, 3), tinyengine=theirs,
        tinyengine_kib=round(theirs / 1024), arena=made.peak, arena_kib=round(made.peak / 1024, 1),
        lower_bound=made.bound, smaller=round(100 * (made.peak / theirs - 1), 1),
        fits_f746=made.peak <= boards.board('stm32f746').ram - measure.STACK,
      ))  # fmt: skip
    return rows, []

  return bench


def accounted(*, files: dict, folder: str = 'mcunet'):
  """One net by several accounts: how tables come to differ that count the same.

  files: name -> (JSON file, resolution, bits of weights and values). Rows 'account', of these and
  of ResNet-18, ResNet-50 and MobileNetV2: MiB of weights with biases of 4 bytes, MB of activations
  with what is held, and how many times the memory that the chart draws, in floats and in integers.
  """

  def bench(session: Session):
    rows = []
    for name, make in KNOWN.items():
      rows += _accounts(name, make(), (8, 32))
    for name, (file, resolution, bits) in files.items():
      graph = zoo.read(_find(f'{folder}/{file}', session), resolution=resolution)
      rows += _accounts(name, graph, (bits,))
    return rows, []

  return bench


KNOWN = dict(
  resnet18=lambda: known.resnet(18), resnet50=lambda: known.resnet(50),
  mobilenet75=lambda: known.mobilenet_v2(0.75), mobilenet100=known.mobilenet_v2,
)  # fmt: skip


def _accounts(name, graph, kinds):
  weights, biases = accounts.weights(graph), accounts.biases(graph)
  most = dict(
    in_out=accounts.in_out(graph), held=accounts.held(graph),
    blocks=accounts.held(graph, blocks=True),
  )  # fmt: skip
  for stored in kinds:
    values = {key: n * stored // 8 for key, n in most.items()}
    yield dict(
      kind='account', summary=True, model=name, stored=f'{"float" if stored == 32 else "int"}'
      f'{stored}', macs_m=round(zoo.macs(graph) / 1e6, 1), weights=weights * stored // 8,
      weights_mb=round(weights * stored / 8e6, 3),
      weights_mib=round((weights * stored / 8 + 4 * biases) / 2**20, 3), **values,
      **{f'{key}_mb': round(n / 1e6, 3) for key, n in values.items()},
      times=round(values['blocks'] / LIMIT, 2),
    )  # fmt: skip


def shipped(*, models: dict, cores: dict):
  """Trained models: bytes that are equal, memory, Flash, instructions.

  models: name -> .tflite file in the data directory. cores: name -> inputs. The interpreter, the C
  on this machine and TFLM where it is installed make outputs of as many as any core.
  Rows 'shipped': for a model; 'core': for a model on a core, with instructions by the millions.
  """
  for core in cores:
    require(core in boards.CORES, f'{core=} is not one of {", ".join(boards.CORES)}')

  def bench(session: Session):
    rows = []
    for name, file in models.items():
      path = _find(file, session)
      rows += _shipped(name, reader.read(path), path, cores, session)
    return rows, []

  return bench


def _shipped(name, graph, path, cores, session):
  made, runs = plan(graph), max(cores.values())
  source = emit.emit(graph, made)
  x = measure.inputs(graph, runs)
  want = np.concatenate([interpret.interpret(graph, x[i : i + 2])[0] for i in range(0, runs, 2)])
  same = lambda found: int((found == want).reshape(runs, -1).all(1).sum())
  row = dict(
    kind='shipped', summary=True, model=name, macs_m=round(zoo.macs(graph) / 1e6, 1), runs=runs,
    arena=made.peak, lower_bound=made.bound, over_bound=made.peak - made.bound,
    tinyengine=zoo.tinyengine(graph), tflm_arena=tflm_arena(path), constants=source.constants,
    equal_host=same(host.run(source, graph, x)[0]), equal_tflm=_tflm(path, graph, x, want),
  )  # fmt: skip
  rows = []
  for core, count in cores.items():
    session.say(f'{name} on {core}')
    found = measure.measure(source, core=core, runs=count, seconds=3_000)
    equal = sum(a == measure.fnv(b) for a, b in zip(found.hashes, want))
    row[f'equal_{core}'] = equal
    if core in ('m4', 'm7'):
      row |= {f'instructions_{core}_m': round(found.instructions / 1e6, 2)}
    if core == 'm4':
      row |= dict(flash=found.flash)
    rows.append(dict(
      kind='core', summary=True, model=name, core=core, runs=count, equal=equal, flash=found.flash,
      instructions=found.instructions, instructions_m=round(found.instructions / 1e6, 2),
      per_mac=round(found.instructions / zoo.macs(graph), 2),
    ))  # fmt: skip
  return [row, *rows]


def ablated(*, models: dict, switches: tuple[str, ...], core: str = 'm4'):
  """What each idea is worth: arena, Flash and instructions on an emulated core without it.

  models: as of `shipped`. switches: of STYLES and CODES, the first of them ours. Rows 'ablation';
  'tflm' is the arena of that interpreter itself. Every variant's output is compared with ours.
  """
  for switch in switches:
    require(switch in (*STYLES, *CODES), f'{switch=} is not one of {", ".join((*STYLES, *CODES))}')

  def bench(session: Session):
    rows = []
    for name, file in models.items():
      path = _find(file, session)
      graph = reader.read(path)
      rows.append(dict(kind='ablation', summary=True, model=name, switch='tflm',
                       arena=tflm_arena(path)))  # fmt: skip
      want = measure.fnv(interpret.interpret(graph, measure.inputs(graph, 1))[0])
      first = None
      for switch in switches:
        session.say(f'{name}, {switch}')
        made = plan(graph, STYLES.get(switch, Style()))
        source = emit.emit(graph, made, code=CODES.get(switch, emit.FASTEST))
        found = measure.measure(source, core=core, seconds=1_000)
        first = first or (made.peak, found.instructions)
        rows.append(dict(
          kind='ablation', summary=True, model=name, switch=switch, arena=made.peak,
          arena_change=_percent(made.peak, first[0]), flash=found.flash,
          instructions_m=round(found.instructions / 1e6, 2),
          instructions_change=_percent(found.instructions, first[1]),
          equal=int(found.hashes == [want]),
        ))  # fmt: skip
    return rows, []

  return bench


def patched(*, models: dict, files: dict, sides: tuple[int, ...], most: float):
  """The first layers in patches: memory, and what is computed twice, on an emulated M4.

  models: as of `shipped`; files: as of `architectures`, with random weights. sides: n x n patches,
  each at its best cut that takes no more than `most` times the multiply-adds. Rows 'patched'.
  """

  def bench(session: Session):
    rows = []
    for name, file in {**models, **files}.items():
      graph = (
        reader.read(_find(file, session)) if isinstance(file, str)
        else zoo.read(_find(f'mcunet/{file[0]}', session), resolution=file[1])
      )  # fmt: skip
      want = measure.fnv(interpret.interpret(graph, measure.inputs(graph, 1))[0])
      first = None
      for side in (0, *sides):
        session.say(f'{name}, {side or "no"} patches')
        cut = patches.best(graph, Style(), sides=(side,), most=most) if side else None
        if cut or not side:
          row = _in_patches(name, side, graph, cut, want, first)
          first = first or row
          rows.append(row)
    return rows, []

  return bench


def _in_patches(name, side, graph, cut, want, first) -> dict:
  made = cut.plan if cut else plan(graph)
  found = measure.measure(emit.emit(cut.graph if cut else graph, made), core='m4')
  instructions = round(found.instructions / 1e6, 2)
  row = dict(
    kind='patched', summary=True, model=name, patches=side, arena=made.peak, lower_bound=made.bound,
    layers=cut.last + 1 if cut else 0, work=round(cut.work, 3) if cut else 1, flash=found.flash,
    instructions_m=instructions, equal=int(found.hashes == [want]),
  )  # fmt: skip
  return row if first is None else dict(
    row, arena_change=_percent(made.peak, first['arena']),
    instructions_change=_percent(instructions, first['instructions_m']),
  )  # fmt: skip


def _percent(value, first) -> float:
  return round(100 * (value / first - 1), 1)


def _find(file: str, session: Session) -> pathlib.Path:
  """A file of the data directory."""
  root = folders.data_dir(session.data_dir)
  if root is None or not (root / file).is_file():
    raise MissingInput(f'{file} is not in {root or "a data directory"}; name one by --data_dir')
  return root / file


TFLM = """
import sys
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1]).print_allocations()
"""


def tflm_arena(path: pathlib.Path) -> int | None:
  """Bytes of arena of TensorFlow Lite for Microcontrollers on this machine, where installed."""
  done = subprocess.run([sys.executable, '-c', TFLM, str(path)], capture_output=True, text=True)
  found = re.search(r'Arena allocation total (\d+) bytes', done.stdout + done.stderr)
  return int(found[1]) if found else None


def _tflm(path, graph, x, want) -> int | None:
  """How many outputs are TFLM's; None where it is not there or ends in a log-softmax of floats."""
  try:
    from tflite_micro import runtime
  except ImportError:
    return None
  if 'LOG_SOFTMAX' in graph.note:
    return None
  theirs, equal = runtime.Interpreter.from_file(str(path)), 0
  given, (first, last) = theirs.get_input_details(0), (graph.inputs[0], graph.outputs[0])
  real = lambda q, t: interpret.dequantize(q, graph.tensors[t])
  for one, out in zip(x, want):
    fed = one if given['dtype'] == np.int8 else real(one, first)
    theirs.set_input(fed.reshape(given['shape']), 0)
    theirs.invoke()
    found = theirs.get_output(0).ravel()
    out = out.ravel() if found.dtype == np.int8 else real(out, last).ravel()
    equal += int(np.array_equal(found, out))
  return equal
