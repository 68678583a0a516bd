"""Integer networks on this machine: the compiled twin's images a second beside LiteRT's."""

import contextlib
import pathlib
import sys
import tempfile

import numpy as np

from launch.benchmarks.pace import OURS, cell
from launch.benchmarks.sides import Session, interleaved, on_platform, process, spread
from reduction.data import folders
from reduction.errors import MissingInput, require
from reduction.mcu import reader, sketch, writer, zoo
from reduction.report import Table
from reduction.report.intervals import NONE

COMMAND = [sys.executable, '-m', 'launch.benchmarks.twin_ours']
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'twin_litert.py'
PEERS = 'reference', 'XNNPACK'
ALONE = ('reference',)  # takes as long for each image of a batch
SKETCH = 'sketch'


def twin(
  *, models: tuple, batch: int, threads: int, repeats: int, peers: tuple[str, ...] = PEERS
):  # fmt: skip
  """Times int8 networks on batches of random images; every side has the same file and images.

  models: (file, resolution): a .tflite file of the data directory, whose int8 part is taken, or a
  .json of the MCUNet zoo, which gets random weights; 'sketch' is a small net made here. threads: of
  LiteRT; ours takes a thread a core. peers: of PEERS, with one image at a time, and XNNPACK with
  the batch too. Rows 'twin': images a second of ours and a peer, their ratio, and how its outputs
  differ. Sides take turns in each repeat.
  """
  for name in peers:
    require(name in PEERS, f'{name!r} is not one of {", ".join(PEERS)}')
  require(min(batch, threads, repeats) > 0, f'{batch=}, {threads=}, {repeats=}: all above 0')

  def bench(session: Session):
    graphs = [graph_of(*model, session) for model in models]
    with contextlib.ExitStack() as stack:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      jobs = [write(graph, folder / str(i), batch) for i, graph in enumerate(graphs)]
      enter = lambda name, command: stack.enter_context(
        process(name, command, dict(threads=threads), **on_platform())
      )
      asks = {OURS: enter(OURS, COMMAND).ask}
      for name in peers:
        side = enter(name, [session.peer_python, str(PEER)])
        for count in (1,) if name in ALONE else dict.fromkeys((1, batch)):
          asks[name, count] = as_peer(side.ask, name, count)
      replies = interleaved(asks, jobs, repeats, session.say)
    rows = [
      dict(row, model=pathlib.Path(models[i][0]).name)
      for i, graph in enumerate(graphs) for row in compare(graph, i, replies)
    ]  # fmt: skip
    return rows, [table(rows, batch, threads)]

  return bench


def as_peer(ask, kind: str, count: int):
  """Asks a peer for one way to run a job."""
  return lambda **job: ask(kind=kind, count=count, **job)


def graph_of(name: str, resolution: int, session: Session):
  """The integer network that a setting names. Raises MissingInput."""
  if name == SKETCH:
    s = sketch.Sketch((16, 16, 3))
    x = sketch.conv(s, sketch.depthwise(s, sketch.conv(s, 0, 8, kernel=3, stride=2)), 16)
    return sketch.finish(s, SKETCH, sketch.dense(s, sketch.average(s, x), 10))
  root = folders.data_dir(session.data_dir)
  if root is None:
    raise MissingInput(f'{name} is looked for in --data_dir or REDUCTION_DATA; neither is given')
  path = root / name
  return zoo.read(path, resolution=resolution) if path.suffix == '.json' else reader.read(path)


def write(graph, folder: pathlib.Path, batch: int) -> dict:
  """The job of a graph: its file and random images, in a new folder."""
  folder.mkdir()
  file, images = folder / 'net.tflite', folder / 'images.npy'
  file.write_bytes(writer.write(graph))
  shape = batch, *graph.tensors[graph.inputs[0]].shape
  np.save(images, np.random.default_rng(0).integers(-128, 128, shape, np.int8))
  return dict(file=str(file), images=str(images))


def compare(graph, job: int, replies: dict) -> list[dict]:
  """Rows from the replies of `interleaved` to one job; see `twin`."""
  of = {side: found[1:] for (side, i), found in replies.items() if i == job}
  pace = {
    side: np.array([r['images'] / r['seconds'] for r in found])
    for side, found in of.items() if 'missing' not in found[0]
  }  # fmt: skip
  macs = sum(map(graph.macs, graph.ops))
  row = dict(
    kind='twin', summary=True, macs=macs,
    **spread(pace[OURS]).fields('images_per_s'),
    gmacs_per_s=round(float(np.median(pace[OURS])) * macs / 1e9, 2),
  )  # fmt: skip
  beside = [
    dict(
      peer=side[0], batch=side[1], **spread(speed).fields('peer_images_per_s'),
      **spread(pace[OURS] / speed).fields('ratio'),
      **differences(of[OURS][0]['outputs'], of[side][0]['outputs']),
    )
    for side, speed in pace.items() if side != OURS
  ]  # fmt: skip
  return [{**row, **peer} for peer in beside or [{}]]


def differences(ours: str, theirs: str) -> dict:
  """Of outputs, int8 as hexadecimal: the share that differs, and by how much at most."""
  a, b = (np.frombuffer(bytes.fromhex(text), np.int8).astype(int) for text in (ours, theirs))
  return dict(differing=float((a != b).mean()), largest=int(abs(a - b).max()))


def table(rows: list[dict], batch: int, threads: int) -> Table:
  """A line for each model and peer."""
  cells = tuple(
    (
      row['model'], f'{row["macs"] / 1e6:.1f}', cell(row, 'images_per_s', '.3g'),
      row.get('peer', NONE), str(row.get('batch', NONE)), cell(row, 'peer_images_per_s', '.3g'),
      cell(row, 'ratio', '.2f'),
      f'{row["differing"]:.2%} (by {row["largest"]})' if 'peer' in row else NONE,
    )
    for row in rows
  )  # fmt: skip
  note = (
    f"int8; ours in batches of {batch}. Medians and ranges. Ratio: our speed over the peer's, of "
    f'{threads} threads. Differing: its outputs from ours, and by how much at most. The reference '
    'kernels of dense layers round once, those for microcontrollers and ours twice. XNNPACK leaves '
    'layers with negative scales to slower kernels.'
  )
  columns = (
    'model', 'M MAC', 'images/s', 'LiteRT', 'its batch', 'its images/s', 'ratio',
    'differing',
  )  # fmt: skip
  return Table('The compiled twin of the int8 interpreter', columns, cells, note)
