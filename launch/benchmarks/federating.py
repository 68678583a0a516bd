"""Rounds of federations: clients as one program, in a loop, and in Flower's simulation."""

import contextlib
import pathlib
import sys

import numpy as np

from launch.benchmarks.pace import OURS, cell
from launch.benchmarks.sides import Session, on_platform, process, spread
from reduction.errors import require
from reduction.report import Table

COMMAND = [sys.executable, '-m', 'launch.benchmarks.federating_ours']
PEER = pathlib.Path(__file__).parent.parent / 'peers' / 'federating_flower.py'
LOOP, FLOWER = 'a jitted loop', "Flower's simulation"
METHODS = 'svd', 'gram', 'randomized'


def federating(
  *, clients: tuple[int, ...], widths: tuple[int, ...], examples: int, batch: int, rounds: int,
  repeats: int, teacher: tuple[int, ...] = (), platform: str = 'cpu',
  peers: tuple[str, ...] = (FLOWER,), peer_most: int = 64, peer_rounds: int = 5,
):  # fmt: skip
  """Times rounds of FedAvg of an MLP on digits: all clients, an epoch each, dense updates.

  clients: counts, from the smallest; examples: of each client; teacher: widths of the MLP that each
  client keeps, which makes it FedKD with low-rank updates; platform: of JAX, where ours runs.
  Beside stands a Python loop that calls one compiled client after another, and for up to
  `peer_most` clients Flower's simulation with the same training, compiled once an actor. Rows
  'federating': method, rounds_per_s, compiled programs of training, MiB that the process held at
  most until its first round of all at once was over (peak_mib), for each peer its rounds_per_s and
  the ratio of ours to it. Sides take turns; Flower's start does not count.
  """
  for name in peers:
    require(name in (FLOWER,), f'{name!r} is not {FLOWER}')
  require(
    not (peers and teacher), f'{FLOWER} has no teachers: leave one of {peers=}, {teacher=} out'
  )
  numbers = dict(examples=examples, batch=batch, rounds=rounds, repeats=repeats)
  require(min(*numbers.values(), *clients) > 0, f'{numbers}, {clients=}: all must be above 0')
  settings = dict(widths=widths, examples=examples, batch=batch, teacher=teacher)

  def bench(session: Session):
    rows = []
    with contextlib.ExitStack() as stack:
      enter = lambda name, command: stack.enter_context(
        process(name, command, settings, **on_platform(platform if name == OURS else 'cpu'))
      )
      ours = enter(OURS, COMMAND)
      other = enter(FLOWER, [session.peer_python, str(PEER)]) if peers else None
      for count in sorted(clients):
        asks = {name: (ours.ask, rounds) for name in (OURS, LOOP)}
        if other and count <= peer_most:
          asks[FLOWER] = other.ask, peer_rounds
        found = measured(asks, count, repeats, session)
        rows += compare(count, found, 'FedKD' if teacher else 'FedAvg')
        session.say(f'federating: {count} clients')
    return rows, [table(rows, settings)]

  return bench


def measured(asks: dict, clients: int, repeats: int, session: Session) -> dict:
  """Side -> its replies, but the first of each."""
  found = {name: [] for name in asks}
  for repeat in range(repeats + 1):
    for name in list(asks)[:: -1 if repeat % 2 else 1]:
      ask, rounds = asks[name]
      reply = ask(kind=name, clients=clients, rounds=rounds)
      if 'missing' in reply:
        session.say(f'{name}: {reply["missing"]} is not installed')
      elif repeat:
        found[name].append(reply)
  return {name: replies for name, replies in found.items() if replies}


def compare(clients: int, found: dict, method: str) -> list[dict]:
  """Rows from what `measured` gave; see `federating`."""
  pace = {
    name: np.array([reply['rounds'] / reply['seconds'] for reply in replies])
    for name, replies in found.items()
  }
  row = dict(
    kind='federating', summary=True, method=method, clients=clients,
    programs=found[OURS][-1]['programs'], peak_mib=round(found[OURS][-1]['peak_mib']),
    **spread(pace[OURS]).fields('rounds_per_s'),
  )  # fmt: skip
  return [
    dict(row, peer=name, **spread(pace[name]).fields('peer_rounds_per_s'),
         **spread(pace[OURS] / pace[name]).fields('ratio'))
    for name in found if name != OURS
  ]  # fmt: skip


def table(rows: list[dict], settings: dict) -> Table:
  """A line for each number of clients and peer."""
  cells = tuple(
    (
      f'{row["clients"]:,}', cell(row, 'rounds_per_s', '.3g'), str(row['programs']),
      str(row['peak_mib']), row['peer'], cell(row, 'peer_rounds_per_s', '.3g'),
      cell(row, 'ratio', '.3g'),
    )
    for row in rows
  )  # fmt: skip
  columns = ('clients', 'rounds / s', 'programs', 'MiB at most', 'beside', 'its', 'ratio')
  method, teacher = rows[0]['method'], settings['teacher']
  taught = f' taught by {tuple(teacher)}' if teacher else ''
  note = (
    f'{method} of an MLP {settings["widths"]}{taught} on digits, {settings["examples"]} examples a '
    f'client, batches of {settings["batch"]}, one epoch a round. Medians and ranges.'
  )
  return Table(f'Rounds of {method}', columns, cells, note)


def encoding(
  *, width: int, inner: int, methods: tuple[str, ...], energy: float,
  spectra: tuple[tuple[float, int], ...], repeats: int,
):  # fmt: skip
  """Times the low-rank encoding of an update of one BERT layer, by method.

  width, inner: of the layer. spectra: (falls, most) each: the update is random with singular values
  k^-falls, of which randomized has so many directions at most. Rows 'encoding': seconds of the six
  matrices, share of the dense bytes, the rank of the first one, speed over svd's, the energy that
  the decoded update lost at most.
  """
  for name in methods:
    require(name in METHODS, f'{name!r} is not one of {", ".join(METHODS)}')
  least = min(width, inner, repeats, len(spectra), *(n for one in spectra for n in one))
  require(least > 0, 'width, inner, spectra and repeats must be above 0')
  require(0 < energy < 1, f'{energy=} must lie in (0, 1)')

  def bench(session: Session):
    rows = []
    with process(OURS, COMMAND, {}, **on_platform()) as side:
      for falls, most in spectra:
        job = dict(width=width, inner=inner, energy=energy, falls=falls, most=most)
        found = {name: [] for name in methods}
        for repeat in range(repeats + 1):
          for name in list(methods)[:: -1 if repeat % 2 else 1]:
            reply = side.ask(kind='encode', method=name, **job)
            if repeat:
              found[name].append(reply)
        rows += encodings(found, job)
        session.say(f'encoded singular values k^-{falls}')
    return rows, [table_of_encodings(rows)]

  return bench


def encodings(found: dict, settings: dict) -> list[dict]:
  """Rows of `encoding`."""
  seconds = {name: np.array([reply['seconds'] for reply in found[name]]) for name in found}
  base = next(iter(found))
  return [
    dict(
      kind='encoding', summary=True, method=name, **settings, **spread(seconds[name]).fields('s'),
      of_dense=round(found[name][0]['of_dense'], 4), rank=found[name][0]['rank'],
      lost=float(f'{found[name][0]["lost"]:.3g}'),
      base=base, **spread(seconds[base] / seconds[name]).fields('ratio'),
    )
    for name in found
  ]  # fmt: skip


def table_of_encodings(rows: list[dict]) -> Table:
  """A line a method."""
  cells = tuple(
    (f'k^-{row["falls"]}', row['method'], cell(row, 's', '.3g'), str(row['rank']),
     f'{row["of_dense"]:.1%}', f'{row["lost"]:.2%}', cell(row, 'ratio', '.3g'))
    for row in rows
  )  # fmt: skip
  first = rows[0]
  note = (
    f'The six matrices of a BERT layer of {first["width"]} and {first["inner"]}, '
    f'{first["energy"]:.0%} of the energy. Rank: of the first. Lost: of the energy, by the worst '
    f'matrix. Speed over {first["base"]}. Medians and ranges.'
  )
  columns = (
    'singular values', 'method', 's a layer', 'rank', 'of the dense bytes', 'lost', 'speed'
  )  # fmt: skip
  return Table("Low-rank encoding of a layer's update", columns, cells, note)
