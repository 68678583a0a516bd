"""How many networks a second are costed exactly, on one core, beside the planner itself."""

import time

import numpy as np

from launch.benchmarks.sides import Session
from reduction.errors import require
from reduction.report import Table


def searching(*, space: dict, networks: int, planned: int, repeats: int = 5):
  """Times multiply-accumulates, Flash and peak SRAM of random networks, by process time.

  space: name and changes of `search.space.space`. networks: costed at once. planned: of these, so
  many are planned one by one too, as graphs with weights; a difference raises. Row 'searching':
  networks a second of both, the best of repeats.
  """
  require(min(networks, planned, repeats) > 0, f'{networks=}, {planned=}, {repeats=}: all above 0')

  def bench(session: Session):
    from reduction.search import space as spaces
    from reduction.search.cost import limits, ops_of

    whole = spaces.space(**space)
    genes = spaces.sample(whole, np.random.default_rng(0), networks)
    seconds = []
    for _ in range(repeats):
      began = time.process_time()
      found = limits(ops_of(whole, genes))
      seconds.append(time.process_time() - began)
    by_planner = one_by_one(whole, genes[:planned], found)
    row = dict(
      kind='searching', summary=True, space=whole.name, networks=networks, equal=planned,
      per_second=round(networks / min(seconds)), planned_per_second=round(planned / by_planner, 1),
    )  # fmt: skip
    session.say(f'searching: {row["per_second"]:,} networks a second')
    columns = ('space', 'networks a second', 'planned one by one', 'of these equal')
    cells = (whole.name, f'{row["per_second"]:,}', f'{row["planned_per_second"]:,}', str(planned))
    note = 'Multiply-accumulates, Flash and peak SRAM, exact; seconds of one core.'
    return [row], [Table('Costs of networks', columns, (cells,), note)]

  return bench


def one_by_one(space, genes, found: dict) -> float:
  """Seconds of one core that the planner takes; raises ValueError where it finds other bytes."""
  from reduction.mcu import plan, zoo
  from reduction.search import space as spaces
  from reduction.search.arch import description

  total = 0.0
  for i, row in enumerate(genes):
    arch = spaces.decode(space, row)
    graph = zoo.build(description(arch), 'net', arch.resolution)
    began = time.process_time()
    peak = plan.plan(graph).peak
    total += time.process_time() - began
    if (zoo.macs(graph), peak) != (found['macs'][i], found['sram'][i]):
      raise ValueError(f'{row.tolist()}: the planner finds {peak}, not {found["sram"][i]}')
  return total
