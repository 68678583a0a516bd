"""Costs of networks: how many a second, and sums of tables beside the emulator and this CPU."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from launch.benchmarks.pace import cell
from launch.benchmarks.sides import Session, on_platform, process, spread
from reduction.errors import require
from reduction.report import Table

CHOICE = 'choice'  # a space of mixtures
ONE_THREAD = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'


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


def predicting(*, spaces: dict, cores: tuple, drawn: int):
  """Sets the table's sum of instructions beside the count of an emulator, for whole networks.

  spaces: label -> name and changes of `search.space.space`, of one resolution and width, or the
  arguments of `models.choice` with name='choice' and the shape of its images. cores: of
  `mcu.boards`. drawn: random networks beside the smallest and the largest. Rows: a 'predicting' for
  each core and network, error: predicted / counted - 1, measured: whether the table is of it too; a
  'predicted' for each core, of all its networks.
  """
  require(cores and drawn >= 0, f'{cores=}, {drawn=}: at least one core, and 0 or more')

  def bench(session: Session):
    jobs = [(core, label, row) for core in cores for label, settings in spaces.items()
            for row in networks_of(settings, drawn)]  # fmt: skip
    with ThreadPoolExecutor() as pool:  # the compiler and the emulator are processes
      rows = list(pool.map(lambda job: beside_emulator(*job, spaces[job[1]], session), jobs))
    told = [predicted(core, [row for row in rows if row['core'] == core]) for core in cores]
    cells = tuple(
      (row['core'], str(row['networks']), str(row['measured']), f'{row["mean_error"]:.1%}',
       f'{row["largest_error"]:.1%}') for row in told
    )  # fmt: skip
    columns = ('core', 'networks', 'of these measured for the table', 'mean error', 'largest')
    note = 'Sum of measured ops beside the whole network in the emulator.'
    return [*rows, *told], [Table('Predicted instructions', columns, cells, note)]

  return bench


def networks_of(settings: dict, drawn: int):
  """Genes of the smallest and the largest network of a space, and of drawn ones, each once."""
  from reduction.search import paths
  from reduction.search import space as spaces

  draw = np.random.default_rng(0)
  if settings['name'] == CHOICE:
    every = paths.networks(mixture(settings)[0])
    return every[np.unique([0, len(every) - 1, *draw.permutation(len(every))[:drawn]])]
  whole = spaces.space(**settings)
  found = np.concatenate([spaces.extremes(whole), spaces.sample(whole, draw, drawn)])
  return found[np.sort(np.unique(found, axis=0, return_index=True)[1])]


def mixture(settings: dict):
  """(the module, the shape of its images) of a space of mixtures."""
  from reduction import models

  given = {k: v for k, v in settings.items() if k not in ('name', 'shape')}
  return models.choice(**given), settings['shape']


def counted_whole(settings: dict, genes, core: str):
  """(ops, the instructions of each as the emulator counts them, whether a table is made of it)."""
  from reduction.search import latency, paths
  from reduction.search import space as spaces

  if settings['name'] == CHOICE:
    (module, shape), path = mixture(settings), tuple(map(int, genes))
    counts = latency.counted(paths.graph(module, shape, path), core)
    return paths.ops(module, shape, path), counts, path in paths.uniform(module)
  whole = spaces.space(**settings)
  ((ops, counts),) = latency.measured(whole, [genes], core)
  return ops, counts, bool((latency.covering(whole) == genes).all(1).any())


def beside_emulator(core: str, label: str, genes, settings: dict, session: Session) -> dict:
  """Row 'predicting' of a network."""
  from reduction.search import latency

  ops, counts, measured = counted_whole(settings, genes, core)
  predicted, counted = float(latency.predict(latency.read(core), ops)[0]), sum(counts)
  row = dict(
    kind='predicting', summary=True, core=core, space=label, genes=' '.join(map(str, genes)),
    measured=measured, predicted=round(predicted), counted=counted,
    error=round(predicted / counted - 1, 4),
  )  # fmt: skip
  session.say(f'predicting: {core}, {label}, {row["genes"]}: {row["error"]:+.2%}')
  return row


def predicted(core: str, rows: list[dict]) -> dict:
  """Row 'predicted' of the networks of a core."""
  errors = [abs(row['error']) for row in rows]
  return dict(
    kind='predicted', summary=True, core=core, networks=len(rows),
    measured=sum(row['measured'] for row in rows), mean_error=round(float(np.mean(errors)), 4),
    largest_error=max(errors),
  )  # fmt: skip


def timing(*, spaces: dict, drawn: int, batch: int, calls: int, repeats: int):
  """Sets the sum of a table of this CPU's times beside the time of whole networks, in one thread.

  spaces, drawn: as of `predicting`, but for mixtures. batch: images a call. calls: of a program,
  one after another.
  In each repeat all ops are timed, then all networks, by seconds of the process, so that what else
  runs counts less. Rows: a 'timing' for each network, microseconds an image of both and their
  ratio, in the same repeat; a 'timed' of a space, Kendall's tau of the medians of both.
  """
  require(min(batch, calls, repeats) > 0 <= drawn, f'{batch=}, {calls=}, {repeats=}: all above 0')

  def bench(session: Session):
    jobs = [(label, [list(map(int, row)) for row in networks_of(settings, drawn)])
            for label, settings in spaces.items()]  # fmt: skip
    settings = dict(spaces=spaces, networks=jobs, batch=batch, calls=calls)
    command = [sys.executable, '-m', 'launch.benchmarks.searching_ours']
    with process('ours', command, settings, **on_platform(), XLA_FLAGS=ONE_THREAD) as side:
      replies = [side.ask() for _ in range(repeats)]
    rows = [row for label, networks in jobs for row in beside_clock(label, networks, replies)]
    told = [timed(label, [row for row in rows if row['space'] == label]) for label in spaces]
    cells = tuple(
      (row['space'], row['genes'], cell(row, 'sum_us', '.1f'), cell(row, 'whole_us', '.1f'),
       cell(row, 'ratio', '.2f')) for row in rows
    )  # fmt: skip
    columns = ('space', 'network', 'sum of ops, us', 'whole, us', 'whole / sum')
    note = f"An image in batches of {batch}, one thread. Medians and ranges. Kendall's tau: "
    note += ', '.join(f'{row["space"]} {row["tau"]:.2f}' for row in told) + '.'
    return [*rows, *told], [Table("This CPU's times", columns, cells, note)]

  return bench


def beside_clock(label: str, networks: list, replies: list[dict]) -> list[dict]:
  """Rows 'timing' of a space from what `searching_ours` said in each repeat."""
  sums, whole = (np.array([reply[key][label] for reply in replies]) for key in ('sums', 'whole'))
  return [
    dict(
      kind='timing', summary=True, space=label, genes=' '.join(map(str, genes)),
      **spread(sums[:, i]).fields('sum_us'), **spread(whole[:, i]).fields('whole_us'),
      **spread(whole[:, i] / sums[:, i]).fields('ratio'),
    )
    for i, genes in enumerate(networks)
  ]  # fmt: skip


def timed(label: str, rows: list[dict]) -> dict:
  """Row 'timed' of the networks of a space."""
  from reduction.search.rank import tau

  order = tau([row['sum_us'] for row in rows], [row['whole_us'] for row in rows])
  return dict(kind='timed', summary=True, space=label, networks=len(rows), tau=round(order, 3))
