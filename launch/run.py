"""Runs a config: python -m launch.run --config=configs/quickstart.py --workdir=runs/quickstart

Stop it with Ctrl-C or SIGTERM and run the same line again: it goes on where it was.
"""

import contextlib
import functools
import io
import json
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from launch import cli

FLAGS = flags.FLAGS
cli.define('config', 'workdir', 'data_dir', 'platform')
flags.DEFINE_string('mesh', None, 'Train on DATA or DATAxMODEL devices, such as 4 or 4x2.')
flags.DEFINE_bool('profile', False, 'Write a trace for Perfetto into the workdir.')


PARTS = ('data', 'model', 'stages', 'seeds', 'figures', 'tables', 'paper', 'title')


class Job(NamedTuple):
  """What a config asks for. start: (keys [R], an example) -> the Net that the stage is given."""

  data: Any
  module: Any
  start: Callable
  stage: Callable


def check(config: dict):
  """Raises UsageError unless a canonical config has the parts of a run, and no others."""
  from reduction import report
  from reduction.errors import require

  for part in ('data', 'model', 'stages', 'seeds'):
    require(part in config, f'config has no {part!r}; see configs/quickstart.py')
  for name in config['stages']:
    require(name in config, f'config.stages names {name!r}, but there is no config.{name}')
  for key in config:
    known = (*PARTS, *config['stages'])
    require(key in known, f'config.{key} is no part of a run, nor in config.stages')
  report.check(config)


def build(config: dict, data_dir: str | None = None, learn=None) -> Job:
  """The job of a canonical config; every wrong value raises UsageError here.

  learn: how federations learn, of `federate.network`; None simulates them here.
  """
  from reduction import data, models, opened, stages
  from reduction.config import call
  from reduction.errors import require
  from reduction.net import create
  from reduction.run import chain

  check(config)
  offered, found = dict(data_dir=data_dir), None
  if 'path' in config['model']:  # a language model and its own tokenizer
    named = dict(config['model'], name='language_model')
    found = call(opened, named, 'model', data_dir=data_dir)
    module, start = found.net.module, lambda keys, x: found.net
    one = len(config['seeds']) == 1
    require(one, f'{found.path.name} is one net: give one seed a run, not {config["seeds"]}')
    offered |= dict(encode=found.encode, vocabulary=module.vocabulary)
  else:
    module = call(models, config['model'], 'model')
    start = functools.partial(create, module)
  steps = {}
  for name in config['stages']:
    given = dict(data_dir=data_dir, source=found, learn=learn)
    steps[name] = call(stages, config[name], name, key='stage', **given)
  seeds = config['seeds']
  require(len(set(seeds)) == len(seeds) > 0, f'seeds={seeds} must differ')
  return Job(call(data, config['data'], 'data', **offered), module, start, chain(**steps))


def run(
  config: dict, workdir: pathlib.Path, data_dir: str | None = None, mesh=None, learn=None, **more
):
  """Runs a canonical config in workdir, on a mesh of devices or one; returns the finished Run.

  learn: see `build`; more: of the `Run`.
  """
  from launch import preflight
  from reduction import signals
  from reduction.config import claim, claim_data
  from reduction.data import digest
  from reduction.errors import require
  from reduction.mesh import check_batch
  from reduction.processes import everywhere, first, require_same
  from reduction.progress import Progress
  from reduction.rows import Sinks
  from reduction.run import Run
  from reduction.tree import digest_of

  with signals.noted():
    check(config)
    foreseen = preflight.told(config, data_dir)  # before anything large is opened
    data, module, start, stage = build(config, data_dir, learn)
    words = getattr(module, 'vocabulary', 0)
    allowed = (data.classes, 0) if words else (data.classes,)  # 0: vectors of texts
    require(
      getattr(module, 'classes', data.classes) in allowed,
      f'config.model.classes={getattr(module, "classes", 0)}, but {data.name} has {data.classes}',
    )
    require(
      words >= data.vocabulary and bool(words) == bool(data.vocabulary),
      f'config.model reads {words or "no"} tokens, {data.name} has {data.vocabulary or "none"}',
    )
    for name in config['stages'] if mesh else ():
      check_batch(mesh, config[name].get('batch', 0))
    facts = dict(name=data.name, source=data.source, digest=digest(data))
    require_same('config', digest_of({'config': json.dumps(config)}))
    require_same('data set', facts['digest'])
    everywhere(lambda: claim(workdir, config))
    everywhere(lambda: claim_data(workdir, **facts))
    progress = Progress() if first() else Progress(stream=io.StringIO())
    progress.line(f'{data.name}: {len(data.train.x):,} training examples; {cli.hardware()}')
    with contextlib.ExitStack() as stack:
      sinks = None
      if first():  # which alone writes
        sinks = stack.enter_context(contextlib.closing(Sinks(workdir, progress.line)))
        stack.enter_context(_session(workdir))
      told = dict(measure=_measure(data), sinks=sinks, progress=progress, **more)
      run_ = Run(data, config['seeds'], workdir, mesh, **told)
      if foreseen:
        run_.log(**foreseen)
      stage(start(run_.key('init', 0), data.train.x[:1]), run_)
  return run_


def _measure(data):
  """What the before/after table holds: the metric that is for such data, and what the net costs."""
  import jax

  from reduction.cost import cost
  from reduction.data import Passages
  from reduction.language import perplexity
  from reduction.net import over_replicas
  from reduction.update import classified

  example = data.train.x[:1]
  if isinstance(data, Passages):
    return lambda net, run: dict(
      metric='perplexity', **perplexity(net, data.test.x, run), **cost(net, example)
    )
  test = jax.device_put(data.test)

  def accuracy(net, run):
    del run
    if not getattr(net.module, 'classes', data.classes):
      return cost(net, example)
    score = over_replicas(classified(net.module), (0, 0, None))
    found = score(net.params, net.stats, test)['accuracy']
    return dict(metric='accuracy', accuracy=found, **cost(net, example))

  return accuracy


@contextlib.contextmanager
def _session(workdir):
  """Adds a line to sessions.jsonl, whole or not at all: what ran here, on what, how long.

  Raises StorageError, also where another is on its way.
  """
  import importlib.metadata

  from reduction.checkpoint import write_atomic

  began = time.time()
  try:
    yield
  finally:
    names = ('jax', 'flax', 'optax', 'numpy')
    line = dict(
      seconds=round(time.time() - began, 1),
      hardware=cli.hardware(),
      versions=dict(
        python=platform.python_version(), **{n: importlib.metadata.version(n) for n in names}
      ),
      command=cli.command(),
    )
    path = workdir / 'sessions.jsonl'
    before = path.read_text() if path.is_file() else ''
    write_atomic(path, before + json.dumps(line) + '\n')


def main(argv):
  del argv
  from launch import deploy
  from reduction import checkpoint, processes, report
  from reduction.errors import require
  from reduction.mesh import default, parse

  cli.set_platform(FLAGS.platform)
  require(FLAGS.workdir, '--workdir is needed: where the run is kept, such as runs/quickstart')
  workdir = pathlib.Path(FLAGS.workdir)
  config = cli.config()
  profile = workdir if FLAGS.profile else None
  with contextlib.ExitStack() as stack:
    processes.everywhere(lambda: stack.enter_context(checkpoint.lock(workdir)) and None)
    stack.enter_context(cli.profiled(profile))
    cli.log_to(workdir)
    if 'board' in config:  # a net that is there
      with _session(workdir):
        deploy.run(config, workdir, FLAGS.data_dir)
    else:
      run(config, workdir, FLAGS.data_dir, parse(FLAGS.mesh) if FLAGS.mesh else default())
    if processes.first():
      _, page = report.write(workdir)
  if processes.first():
    report.show(workdir)
    print(f'\nReport: {page}')


if __name__ == '__main__':
  cli.run(main)
