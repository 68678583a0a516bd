"""The scheduler as a stage, on digits: limits hold in the emitted C, and what cannot be is said."""

import dataclasses
import re
import signal

import numpy as np
import pytest

from reduction import models, prune, stages, tree
from reduction.errors import UsageError
from reduction.mcu import boards, deploy, from_flax, latency, measure, sparse
from reduction.mcu.emit import emit
from reduction.mcu.narrow import narrowed
from reduction.mcu.plan import plan
from reduction.net import create
from reduction.prune import channels, schedule, select
from reduction.prune.importance import of_layers
from reduction.run import Run
from reduction.stages import budget

pytest.importorskip('jinja2', reason='writing C needs jinja2')
TRAIN = dict(
  steps=20, batch=60, every=20, optimizer=dict(name='adam', learning_rate=3e-3), examples=256
)
SETTING = budget.Setting()


@pytest.fixture(scope='module')
def made(digits):
  """(residual net [1], run, its graph, structure, scores)."""
  run = Run(digits, (0,))
  net = create(models.resnet(layers=8, width=8), run.key('init', 0), digits.train.x[:1])
  graph = from_flax.convert(net, digits.train.x[:32])
  one = tree.map(lambda w: w[0], net)
  found = channels.structure(net.module, one.params, one.stats, digits.train.x[:1])
  return net, run, graph, found, prune.magnitude(net.params)


def test_bytes_and_memory_of_a_choice_are_those_of_the_c(made):
  """Of a residual net, whose sums the authors' model counts as 0 bytes once a filter goes."""
  net, _, graph, found, scores = made
  limits = dict(bytes=9_000, ram=3_400, loss=0.5)
  problem = budget.budget(graph, found, scores, latency.read(), limits, SETTING)
  choice = schedule.solve(problem.problem)
  assert choice.costs['bytes'] <= 9_000 and any(choice.groups)
  widths, shares, forms = budget.told(problem, found, choice)
  masks = select.by_layer(scores, prune.all_kept(net.params), found, widths, shares)
  small = channels.shrunk(net.replace(masks=tree.map(np.asarray, masks)), found)
  after = from_flax.convert(small, made[1].data.train.x[:32])
  ops, left = [], iter(forms)
  for op in after.ops:
    form = next(left) if op.kind == 'conv' else 'dense'
    ops.append(op if form == 'dense' else sparse.as_form(op, form))
  stored = dataclasses.replace(after, ops=tuple(ops))
  counts = [len(op.weights) for op in after.ops if op.kind == 'conv']
  assert plan(stored).peak == plan(narrowed(graph, counts, forms)).peak <= 3_400
  # filterlets whose codes round to 0 are not stored: never more than was said
  assert (
    0.97 * choice.costs['bytes'] <= emit(stored, plan(stored)).constants <= choice.costs['bytes']
  )


def test_a_residual_net_that_loses_filters_takes_less_memory(made):
  """Not none: the authors' model rounds the sum's output to 0 bytes once beta is above 0."""
  _, _, graph, found, _ = made
  dense = ['dense'] * len(found.convs)
  whole = [len(op.weights) for op in graph.ops if op.kind == 'conv']
  assert plan(narrowed(graph, whole, dense)).peak == plan(graph).peak
  half = plan(narrowed(graph, [n // 2 for n in whole], dense)).peak
  assert plan(graph).peak * 0.45 <= half <= plan(graph).peak * 0.6


def test_wide_windows_are_used_where_memory_holds_them(made):
  """Four windows of int16 take eight times a window; without room two of bytes do."""
  _, _, graph, found, scores = made
  counts = [len(op.weights) for op in graph.ops if op.kind == 'conv']
  forms = ['dense' if op.window.kernel == (1, 1) else 'wide'
           for op in graph.ops if op.kind == 'conv']  # fmt: skip
  need = plan(narrowed(graph, counts, forms)).peak
  assert need > plan(graph).peak
  for ram, wide in (need, True), (need - 1, False):
    bill = budget.budget(graph, found, scores, latency.read(), dict(ram=ram), SETTING)
    assert any('wide' in set(form.ravel()) for form in bill.forms) == wide


def test_layers_count_alike_whatever_their_gradients(made):
  """A layer whose scores are 50 times those of others goes first of none, nor last."""
  _, _, graph, found, scores = made
  loud = dict(tree.named(scores))
  loud[found.convs[1].removeprefix('params/')] *= 50
  loud = tree.unflatten(scores, list(loud.values()))
  chosen = lambda scores: schedule.solve(
    budget.budget(graph, found, scores, latency.read(), dict(loss=0.3), SETTING).problem
  )
  quiet, same = chosen(of_layers(scores)), chosen(of_layers(loud))
  assert quiet[:2] == same[:2] and quiet.costs['loss'] == pytest.approx(same.costs['loss'])
  assert chosen(scores)[:2] != chosen(loud)[:2]


@pytest.mark.slow
def test_the_stage_keeps_its_limits_and_what_it_predicts(digits):
  run = Run(digits, (0, 1))
  net = create(models.vgg(layers=(16, 'pool', 24, 16)), run.key('init', 0), digits.train.x[:1])
  limits = dict(flash=6_500, ram=3_000)
  small = stages.schedule(losses=(0.01, 0.4), tolerance=1.0, **limits, **TRAIN)(
    net, run.child('schedule')
  )
  (row,) = [r for r in run.rows if r['kind'] == 'schedule']  # a hundredth does not fit
  assert row['loss'] == 0.4 and row['predicted_bytes'] <= 6_500
  stages.microcontroller(board='stm32f412', sparse='instructions')(small, run.child('c'))
  total = next(r for r in run.rows if r['kind'] == 'microcontroller')
  assert total['arena'] <= 3_000 and total['equal_in_c'] in (total['compared'], None)
  assert 0.95 * row['predicted_bytes'] <= total['constants'] <= 6_500
  if total['instructions']:
    layers = [r for r in run.rows if r['kind'] == 'layer' and r['op'] in ('conv', 'dense')]
    counted = sum(r['instructions'] for r in layers)
    assert row['predicted_instructions'] == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
  'limits, says', [(dict(flash=100), 'passes bytes by'), (dict(ram=100), 'passes ram by')]
)
def test_what_cannot_be_names_the_limit(digits, limits, says):
  run = Run(digits, (0,))
  net = create(models.vgg(layers=(8, 'pool', 12, 8)), run.key('init', 0), digits.train.x[:1])
  with pytest.raises(UsageError, match=says):
    stages.schedule(losses=(0.9,), **limits, **TRAIN)(net, run.child('schedule'))


@pytest.mark.skipif(bool(measure.missing()), reason=f'needs {measure.missing()}')
def test_what_does_not_link_as_it_is_links_pruned(made):
  """A board whose Flash holds the dense net's constants, not the code beside them: the linker's own
  word. The same net with a third of its filterlets runs there."""
  net, run, graph, found, scores = made
  dense = plan(graph)
  flash = emit(graph, dense).constants + 1_500
  board = boards.Board('tight', 'm4', flash, dense.peak + measure.STACK + 64)
  refused = deploy.deploy(graph, board)
  assert re.search(r'FLASH is [\d,]+ bytes too small', refused.problem)
  assert refused.total['flash'] is None
  masks = select.select(scores, prune.all_kept(net.params), 'filterlet', found, 0.35)
  small = from_flax.convert(net.replace(masks=tree.map(np.asarray, masks)), run.data.train.x[:32])
  fits = deploy.deploy(sparse.sparsify(small, columns=1), board)
  assert fits.problem is None and fits.total['flash'] <= flash
  assert fits.total['instructions'] > 0


def test_no_round_that_is_accurate_enough_is_said(digits):
  """Not the dense net instead, which passes the limits."""
  run = Run(digits, (0,))
  net = create(models.vgg(layers=(8, 'pool', 12, 8)), run.key('init', 0), digits.train.x[:1])
  with pytest.raises(UsageError, match=r'within bytes 1,800 the best choice loses .* points'):
    stages.schedule(losses=(0.4,), tolerance=-2.0, flash=1_800, **TRAIN)(net, run.child('s'))


CONFIG = """
from ml_collections import config_dict


def get_config():
  adam = dict(name='adam', learning_rate=3e-3)
  train = dict(steps=20, batch=60, every=20, optimizer=adam)
  few = dict(train, of='train', tolerance=1.0, examples=128)
  return config_dict.ConfigDict(dict(
    title='', seeds=(0,), data=dict(name='digits'), stages=('train', 'filterlet', 'schedule'),
    model=dict(name='vgg', layers=(8, 'pool', 8)), train=dict(train, stage='tune'),
    filterlet=dict(few, levels=(0.6, 0.4)),
    schedule=dict(train, losses=(0.1, 0.3), tolerance=1.0, examples=128, flash=1_000),
  ))
"""


@pytest.mark.slow
def test_kill_9_changes_no_bit(launch, tmp_path):
  """Killed in a round, after levels that were saved: the rows and nets of a run left in peace."""
  (tmp_path / 'config.py').write_text(CONFIG)
  line = f'--config={tmp_path}/config.py'
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  assert launch(line, f'--workdir={whole}').code == 0
  ended = launch(line, f'--workdir={cut}', env={'REDUCTION_CRASH_AT': 'losses:0'})
  assert ended.code == -signal.SIGKILL, ended.err
  result = launch(line, f'--workdir={cut}')
  assert result.code == 0, result.err
  assert (whole / 'metrics.jsonl').read_text() == (cut / 'metrics.jsonl').read_text()
  nets = sorted(path.relative_to(whole) for path in (whole / 'nets').rglob('*') if path.is_file())
  assert len(nets) >= 3
  for path in nets:
    assert (whole / path).read_bytes() == (cut / path).read_bytes(), path


def test_wrong_settings_are_refused():
  with pytest.raises(UsageError, match='must rise'):
    stages.schedule(losses=(0.2, 0.1), **TRAIN)
  with pytest.raises(UsageError, match=r"how='annealing'.*Did you mean 'anneal'"):
    stages.schedule(losses=(0.1,), how='annealing', **TRAIN)
