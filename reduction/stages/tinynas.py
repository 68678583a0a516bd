"""TinyNAS, first stage: a search space for each device (Lin et al., NeurIPS 2020, section 3.1)."""

import time

import numpy as np

from reduction.errors import require
from reduction.net import Net
from reduction.run import Run, Stage
from reduction.search import selection
from reduction.search.cost import MEMORY
from reduction.search.selection import Budget
from reduction.search.space import space as find_space

SHOWN = 6  # spaces whose distributions are logged, from the best to the worst


def tinynas(
  *, space: dict, boards: tuple[str, ...], samples: int = 1_000, attempts: int = 50_000,
  code: int = 0, budgets: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
  released: dict | None = None, memory: str = 'planner',
) -> Stage:  # fmt: skip
  """Chooses resolution and width for each board and budget; returns the net as it was.

  space: name and changes of `search.space.space`. boards: of `mcu.boards`, whose memory less a
  stack, and Flash less `code` bytes, are budgets. samples: networks that fit each space and budget,
  of at most `attempts` drawn. budgets: kilobytes of SRAM and of Flash, a budget for each pair.
  released: board -> (resolution, width) of a published model, which is shown beside. memory: of
  `search.cost.MEMORY`. Rows: for each budget a 'choice'; for boards a 'space' for each resolution
  and width, and a 'cdf' for six spaces from the best to the worst. A space of which too few fit is
  no candidate; `rare_of_best` is the largest mean of those, of what was found, over the best's. No
  data are looked at. Raises UsageError where nothing fits any budget.
  """
  whole = find_space(**space)
  require(memory in MEMORY, f'{memory=} is not one of {", ".join(MEMORY)}')
  require(0 < samples <= attempts, f'{samples=} must be from 1 to {attempts=}')
  budgets = tuple(
    [selection.of_board(name, code) for name in boards]
    + [Budget(f'{s} KiB, {f} KiB', 1024 * s, 1024 * f) for s in budgets[0] for f in budgets[1]]
  )
  require(budgets, 'no board and no budgets: nothing to choose for')
  spaces = selection.parts(whole)

  def stage(net: Net, run: Run) -> Net:
    def step(carry, index: int, run: Run):
      found, began = [], time.monotonic()
      for seed in run.seeds:
        random = np.random.default_rng((seed, index))
        settings = dict(samples=samples, attempts=attempts, memory=memory)
        found.append(selection.examine(spaces[index], budgets, random, **settings))
      out = {f: np.stack([getattr(one, f) for one in found]) for f in found[0]._fields}
      return carry, dict(out, seconds=np.asarray(time.monotonic() - began))

    _, outs = run.fold('spaces', step, dict(none=np.zeros(())), len(spaces))
    outs = list(outs)  # each [R, budgets], but seconds
    examined = {key: np.stack([out[key] for out in outs]) for key in outs[0]}
    seconds = round(float(examined['seconds'].sum()), 1)
    best = [_choice(run, spaces, budgets, b, examined, samples, released or {}, seconds)
            for b in range(len(budgets))]  # fmt: skip
    require(any(best), f'no network of {whole.name} fits any of {[b.name for b in budgets]}: '
            'take smaller resolutions or widths')  # fmt: skip
    for b, order in enumerate(best[: len(boards)]):
      _distributions(run, spaces, budgets[b].name, b, examined, order)
    return net

  return stage


def _choice(run, spaces, budgets, b, examined, samples, released, seconds) -> list[int]:
  """Logs what is chosen for a budget; the order of the spaces for the first seed."""
  budget, name = budgets[b], lambda i: (spaces[i].resolutions[0], spaces[i].widths[0])
  orders = [
    selection.choose(examined['mean'][:, r, b], examined['found'][:, r, b], samples)
    for r in range(len(run.seeds))
  ]
  row = dict(kind='choice', summary=True, seeds=run.seeds, budget=budget.name, sram=budget.sram,
             flash=budget.flash, sram_kib=budget.sram // 1024, flash_kib=budget.flash // 1024,
             spaces=len(spaces), all_seconds=seconds)  # fmt: skip
  possible = examined['possible'][:, 0, b]
  row |= dict(possible=int(possible.sum()), candidates=[len(order) for order in orders])
  if all(orders):
    means = [examined['mean'][order, r, b] for r, order in enumerate(orders)]
    row |= dict(
      resolution=[name(order[0])[0] for order in orders],
      width=[name(order[0])[1] for order in orders],
      mean_macs=[m[0] for m in means],
      second=', '.join('{} x {}'.format(*name(i)) for i in orders[0][1:3]),
      worst='{} x {}'.format(*name(orders[0][-1])),
      second_of_best=[m[1] / m[0] if len(m) > 1 else np.nan for m in means],
      worst_of_best=[m[-1] / m[0] for m in means],
      rare_of_best=[_rarest(examined['mean'][:, r, b], order) for r, order in enumerate(orders)],
    )
  if budget.name in released:
    wanted = tuple(released[budget.name])
    at = next((i for i in range(len(spaces)) if name(i) == wanted), None)
    row |= dict(released='{} x {}'.format(*wanted))
    if at is not None and all(orders):
      row |= dict(
        released_rank=[order.index(at) + 1 if at in order else None for order in orders],
        released_of_best=[examined['mean'][at, r, b] / examined['mean'][order[0], r, b]
                          for r, order in enumerate(orders)],
      )  # fmt: skip
  run.log(**row)
  return orders[0]


def _rarest(means, order: list[int]) -> float:
  """The largest mean of spaces that are no candidates, of what was found, over the best one's."""
  others = np.delete(means, order)
  return float(np.max(others[~np.isnan(others)], initial=0.0) / means[order[0]])


def _distributions(run, spaces, name, b, examined, order):
  for i, space in enumerate(spaces):
    if examined['possible'][i, 0, b]:
      found, drawn = examined['found'][i, :, b], examined['drawn'][i, :, b]
      run.log(
        kind='space', summary=True, seeds=run.seeds, budget=name, resolution=space.resolutions[0],
        width=space.widths[0], found=found, fitting=np.round(found / drawn, 4),
        mean_macs=np.round(examined['mean'][i, :, b]),
        error=np.round(examined['error'][i, :, b]),
      )  # fmt: skip
  ranks = sorted({round(k * (len(order) - 1) / (SHOWN - 1)) for k in range(SHOWN)} if order else ())
  for rank in ranks:
    i = order[rank]
    label = f'{rank + 1}: {spaces[i].resolutions[0]} x {spaces[i].widths[0]}'
    for q, share in enumerate(selection.QUANTILES):
      run.log(
        kind='cdf', summary=True, seeds=run.seeds, budget=name, space=label, rank=rank + 1,
        quantile=share, macs=np.round(examined['quantiles'][i, :, b, q] / 1e6, 3),
      )  # fmt: skip
