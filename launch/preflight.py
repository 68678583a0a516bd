"""What quantizing a language model will take, told before any of it is done."""

import inspect
import os
import pathlib
import sys
import time

import numpy as np

from launch import cli

BASE = 0.8e9  # bytes of Python, JAX and compiled programs; of SmolLM2 0.83 were measured
LIMITS = '/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'
SIZE = 1_024  # of the products and weights that are timed
PARTS = dict(embedding='embedding', blocks='two blocks', statistics='statistics',
             states='states of the passages', outs='packed blocks that wait to be saved',
             judging='what scales are judged on', working='searching and rounding')  # fmt: skip
PHASES = 'calibrating', 'searching', 'rounding', 'measuring'


def told(config: dict, data_dir: str | None = None) -> dict | None:
  """Prints what quantizing the language model of a canonical config will take; its row.

  None for a config that does no such thing. A model folder's config.json is enough.
  """
  from reduction.processes import first

  found = foreseen(config, data_dir)
  if found and first():
    for table in tables(found, config['model']['path']):
      cli.show(table)
    print(flush=True)
    if warning := short(found):
      print(warning, file=sys.stderr)
  return found


def foreseen(config: dict, data_dir: str | None = None) -> dict | None:
  """The row of `quantize.preflight`, with the seconds that it stands for.

  By flops_per_s and weights_per_s, the `paces` of this machine; machine_bytes: its `memory`.
  """
  from reduction import data, opened, stages, written
  from reduction.config import bound
  from reduction.data.passages import planned

  named = [bound(stages, config[name], name, key='stage') for name in config['stages']]
  settings, form = (
    next((given for function, given in named if function is stage), None)
    for stage in (stages.awq, stages.folder)
  )
  function, given = bound(data, config['data'], 'data')
  if 'path' not in config['model'] or settings is None or function is not data.passages:
    return None
  passages = planned(**_complete(function, given | dict(data_dir=data_dir)))
  net, described = opened.outline(config['model']['path'], data_dir)
  stage = stages.awq(**settings)
  found = stage.preflight(net, *passages)
  if form is not None:
    form = written.Format(_complete(stages.folder, form)['format'])
    written.fits(described, form, stage.method.scheme, stage.method.activations)
  products, weights = paces()
  seconds = {
    f'{name}_s': found[f'{name}_flops'] / products + found.get(f'{name}_weights', 0) / weights
    for name in PHASES
  }
  return dict(
    found, **{name: round(s, 1) for name, s in seconds.items()}, flops_per_s=products,
    weights_per_s=weights, machine_bytes=memory(),
  )  # fmt: skip


def _complete(function, given: dict) -> dict:
  """given with the function's defaults for the rest."""
  bound = inspect.signature(function).bind_partial(**given)
  bound.apply_defaults()
  return bound.arguments


def paces() -> tuple[int, int]:
  """Floating-point operations a second of a product of matrices, and weights rounded a second."""
  import jax
  import jax.numpy as jnp

  from reduction.qtensor import Scheme
  from reduction.quantize.rtn import snapped

  square = jnp.asarray(np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32))

  def pace(count, program):
    program, times = jax.jit(program), []
    program(square).block_until_ready()
    for _ in range(3):
      began = time.perf_counter()
      program(square).block_until_ready()
      times.append(time.perf_counter() - began)
    return round(count / min(times))

  products = pace(2 * SIZE**3, lambda w: jnp.matmul(w, w, precision='highest'))
  return products, pace(SIZE**2, lambda w: snapped(w, Scheme(4, 128)))


def memory() -> int | None:
  """Bytes of memory for a run: of the first accelerator, or of the machine within its limits."""
  import jax

  device = jax.devices()[0]
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  found = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
  for path in map(pathlib.Path, LIMITS):
    text = path.read_text().strip() if path.is_file() else ''
    found += [int(text)] if text.isdigit() else []
  return min(found)


def short(found: dict) -> str:
  """A line where the machine has less memory than is needed, else ''."""
  needed, there = found['memory_bytes'] + BASE, found['machine_bytes']
  if there is None or needed <= there:
    return ''
  most = max((*PARTS, 'measuring'), key=lambda part: found[f'{part}_memory'])
  needed, there, part = map(_gb, (needed, there, found[f'{most}_memory']))
  return (
    f'warning: about {needed} GB of memory are needed, {part} GB of them for '
    f'{PARTS.get(most, most)}, and {there} GB are there; fewer passages (config.data.examples) and '
    'smaller batches take less, or use a larger machine'
  )


def tables(found: dict, name: str) -> list:
  """Two: what the weights take in each scheme and in this run, and what the run takes."""
  from reduction.report import Table, duration
  from reduction.report.intervals import NONE

  params, half = found['params'], found['fp16_bytes']
  sizes = {'FP16': half}
  for bits in 8, 4, 3:
    sizes[f'INT{bits}'] = found[f'int{bits}_bytes']
    sizes[f'INT{bits} in groups'] = found[f'int{bits}_group_bytes']
  sizes['linears packed, the rest FP16'] = found['folder_bytes']
  sizes['linears packed, the rest FP32: this run'] = found['stored_bytes']
  lines = [
    (scheme, f'{8 * size / params:.2f}', _gb(size), f'{half / size:.2f}')
    for scheme, size in sizes.items()
  ]
  note = (
    f'Bits of a weight; GB of 10^9 bytes. In groups: all weights, with scales and zero points. '
    f'Packed: {found["packed_linears"]:,} linears, {found["scheme"]}, {found["bits"]:.4g} bits.'
  )
  for what, left in (('quantized', found['unpacked']), ('scaled', found['unscaled'])):
    note += f'\nNot {what}: {left}.' if left else ''
  title = f'{name}: {params:,} parameters'
  weights = Table(title, ('weights', 'bits', 'GB', 'times smaller'), tuple(lines), note)

  seconds = lambda *phases: duration(sum(found[f'{phase}_s'] for phase in phases))
  times = dict(statistics=seconds('calibrating'), working=seconds('searching', 'rounding'))
  takes = [
    (text, _gb(found[f'{part}_memory']), times.get(part, NONE)) for part, text in PARTS.items()
  ]
  measuring = _gb(found['measuring_memory'])
  known = seconds('measuring') if found['measuring_flops'] else NONE  # the text is not there
  takes += [('measuring before and after', measuring, known)]
  takes += [('the run', f'{_gb(found["memory_bytes"])} at the peak', seconds(*PHASES))]
  flops, rounded = (sum(found.get(f'{phase}_{what}', 0) for phase in PHASES)
                    for what in ('flops', 'weights'))  # fmt: skip
  basis = (
    f'Estimates. Memory: beside {BASE / 1e9} GB of Python, JAX and programs. Time: {flops:.1e} '
    f'operations at {found["flops_per_s"] / 1e9:,.0f} GFLOP/s and {rounded:.1e} weights rounded at '
    f'{found["weights_per_s"] / 1e6:,.0f} million/s, both measured just now.'
  )
  return [weights, Table('What it takes', ('', 'memory, GB', 'time'), tuple(takes), basis)]


def _gb(size: float) -> str:
  return f'{size / 1e9:,.{1 if size >= 1e10 else 2 if size >= 1e9 else 3}f}'
