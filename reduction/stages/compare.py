"""One net made smaller in many ways: every method at every point of a grid, measured alike."""

import itertools
import re
from typing import NamedTuple

import numpy as np

from reduction import closeness, tree
from reduction.config import call
from reduction.data import Passages
from reduction.errors import require
from reduction.net import Net
from reduction.qtensor import is_packed
from reduction.quantize.seen import gather
from reduction.run import Run, Stage


class Cell(NamedTuple):
  """One way. name: the method's; point: its settings; stage: what they make."""

  name: str
  point: dict
  stage: Stage

  @property
  def fields(self) -> dict:
    """What tells its rows apart."""
    return dict(net=self.name, **self.point)


def compare(
  *, methods: dict, grid: dict | None = None, baseline: dict | None = None, each: bool = False,
  items: int | None = None, batch: int = 4, divergence: bool = True,
) -> Stage:  # fmt: skip
  """Makes a net of the one that comes in every way, measures it and lets it go; returns the first.

  methods: name -> a stage and its settings, dict(stage='awq', clip=False). grid: setting -> values
  that all of them get, dict(bits=(4, 3), group=(64, 'channel')): every combination is a point.
  baseline: fields of the cells that the others are compared with, on the same test items:
  dict(net='rtn') is that method at the same point, dict(scaled=1.0) the same method there. each:
  logs the 'quantized' of every linear too. items: of the test split, the first so many count, all
  by default. batch: passages at once. divergence: is measured too, which takes a quarter longer.
  Rows: a 'cell' for each net and one for that which came, 'float'. Fields: net, the method's name;
  the point's settings; bytes; `error`, the mean over linears; what the stage logs of itself; of a
  language model `perplexity` and `divergence`, KL(float || net) in nats a token, else
  `output_error`, the squared error of the test outputs relative to their squares, and `accuracy`;
  `perplexity_change`, relative to the baseline's, with the `_low` and `_high` of its 95 % interval
  over test items, and so on. Runs that differ in their grids are pooled by `launch.report`.
  """
  baseline = baseline or {}
  cells = _cells(methods, grid or {}, baseline)
  judges = [c.fields for c in cells if baseline and c.fields == c.fields | baseline]
  require(judges or not baseline, f'no cell is as {baseline=} says')

  def stage(net: Net, run: Run) -> Net:
    texts = isinstance(run.data, Passages)
    x, y = (part[:items] for part in run.data.test)
    if texts and not divergence:
      measure = closeness.surprise(x, batch)
    else:
      measure = closeness.texts(net, x, run, batch) if texts else closeness.outputs(net, x, y)
    seen = _seen(cells, net, run)
    first = measure(net, run.child('float'))
    _log(run, dict(net='float'), net, first, {}, [])

    def one_cell(known, i, run_i):
      cell = cells[i]
      quiet = run_i.child(cell.name)
      quiet.rows, quiet.sinks = [], None  # what a stage tells of itself goes into one row
      small = cell.stage(net, quiet, **seen.get(_needs(cell), {}))
      found, others = measure(small, run_i.child('measured')), {}
      if cell.fields in judges:
        at = judges.index(cell.fields)
        known = {key: np.concatenate([v[:at], found[key][None], v[at + 1 :]])
                 for key, v in known.items()}  # fmt: skip
      elif (of := cell.fields | baseline) in judges:
        others = {key: values[judges.index(of)] for key, values in known.items()}
      _log(run, cell.fields, small, found, others, quiet.rows, each)
      return known, None

    nothing = {key: np.zeros((len(judges), *v.shape), v.dtype) for key, v in first.items()}
    run.fold('cells', one_cell, nothing, len(cells))
    return net

  return stage


def _needs(cell: Cell):
  return getattr(cell.stage, 'needs', None)


def _seen(cells, net: Net, run: Run) -> dict:
  """needs -> what the cells that have them are given: statistics that are gathered once a run."""
  found = {}
  for i, n in enumerate(dict.fromkeys(n for n in map(_needs, cells) if n is not None)):
    key = 'statistics', id(net), n
    if key not in run.known:  # with the net, or another might get its id
      run.known[key] = net, gather(net, run.data.train.x, run.child(f'statistics{i}'), n)
    found[n] = dict(seen=run.known[key][1])
  return found


def _cells(methods, grid, baseline) -> list[Cell]:
  """Every method at every point, what others are compared with first."""
  from reduction import stages  # which holds this one

  cells = []
  for values in itertools.product(*grid.values()):
    point = dict(zip(grid, values))
    for name, settings in methods.items():
      made = call(stages, {**settings, **point}, f'methods.{name}', key='stage')
      cells.append(Cell(name, point, made))
  require(cells, f'nothing to compare: {methods=} at {grid=}')
  return sorted(cells, key=lambda cell: cell.fields != cell.fields | baseline)


def _log(run, fields, net, items, others, told, each=False):
  """The row of a cell, from what was measured of it and what its stage told.

  others: the items of what it is compared with.
  """
  by_linear = [row for row in told if row['kind'] == 'quantized']
  for row in by_linear if each else ():
    part = re.sub(r'^layer\d+/', '', row['linear'])
    run.log(**{**row, 'at': run.where, 'part': part, **fields})
  own = [row for row in told if row.get('summary') and row['kind'] != 'quantized'][-1:]
  more = {k: v for row in own for k, v in row.items() if k not in ('at', 'kind', 'steps')}
  errors = [row['error'] for row in by_linear if None not in row.get('error', [None])]
  if errors:
    more['error'] = np.mean(errors, 0, dtype=np.float32)
  for key, values in items.items():
    more |= closeness.told(key, values, others.get(key))
  leaves = [leaf for _, leaf in tree.named(net.params, is_packed)]
  size = sum(w.nbytes if is_packed(w) else w.size * w.dtype.itemsize for w in leaves)
  run.log(**{**more, 'kind': 'cell', 'summary': True, **fields, 'seeds': run.seeds,
             'bytes': size // len(run.seeds)})  # fmt: skip
