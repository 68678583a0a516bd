"""One net in many ways: the numbers of each cell are those of its stage alone."""

import jax
import numpy as np
import pytest
from scipy import stats

from reduction import language, stages
from reduction.errors import UsageError
from reduction.models.served import Served
from reduction.predict import logits
from reduction.quantize import seen
from reduction.run import Run, chain

ROUNDED = dict(stage='awq', scaling='none', clip=False, group=16)
METHODS = dict(
  rtn=ROUNDED, half=dict(stage='salient', group=16, kept=0.5), scaled=dict(
    stage='salient', group=16, kept=0.1, scaled=2.0),
)  # fmt: skip
GRID = dict(bits=(4, 3))


def measured(run):
  """(net, bits) -> the row of that cell."""
  return {(row['net'], row.get('bits')): row for row in run.rows if row['kind'] == 'cell'}


@pytest.fixture(scope='module')
def cells(tiny):
  model, data = tiny
  run = Run(data, measure=lambda net, run: dict(params=7))
  compare = stages.compare(methods=METHODS, grid=GRID, baseline=dict(net='rtn'))
  assert chain(all=compare)(model.net, run) is model.net
  rows = [row for row in run.rows if row['kind'] == 'stage']
  assert [row['params'] for row in rows] == [7, 7]  # measured once
  assert 'all-measured' not in run.names
  return measured(run)


def predicted(net, x):
  """log p [n, length - 1, vocabulary] of what follows each token but the last."""
  return np.asarray(jax.nn.log_softmax(logits(net, x)[0][:, :-1]))


def test_a_cell_is_its_stage_alone(tiny, cells):
  model, data = tiny
  x = data.test.x
  exact = predicted(model.net, x)
  assert cells['float', None]['divergence'] == [0.0]
  alone = dict(
    rtn=stages.awq(**{k: v for k, v in ROUNDED.items() if k != 'stage'}, bits=3),
    half=stages.salient(bits=3, group=16, kept=0.5),
  )
  for name, stage in alone.items():
    net = stage(model.net, Run(data))
    logs, row = predicted(net, x), cells[name, 3]
    loss = -np.take_along_axis(logs, x[:, 1:, None], -1)[..., 0]
    assert np.isclose(row['perplexity'][0], np.exp(loss.mean(dtype=np.float64)), rtol=1e-4)
    expected = (np.exp(exact) * (exact - logs)).sum(-1).mean()
    assert np.isclose(row['divergence'][0], expected, rtol=1e-3)
  float_ = language.perplexity(model.net, x, Run(data))['perplexity'][0]
  assert np.isclose(cells['float', None]['perplexity'][0], float_, rtol=1e-5)
  assert cells['rtn', 4]['bytes'] > cells['rtn', 3]['bytes'] + 1  # packed: a quarter less codes
  assert cells['half', 3]['bytes'] == cells['float', None]['bytes']


def test_without_divergences_perplexities_are_the_same(tiny, cells):
  model, data = tiny
  run = Run(data)
  stages.compare(
    methods=METHODS, grid=GRID, baseline=dict(net='rtn'), divergence=False
  )(model.net, run)
  for place, row in measured(run).items():
    same = [key for key in row if key.startswith('perplexity')]
    assert 'divergence' not in row and same
    assert all(np.allclose(row[key], cells[place][key], rtol=1e-4, atol=1e-5) for key in same)


def test_a_change_is_against_the_baseline_of_the_same_point(tiny, cells):
  model, data = tiny
  x = data.test.x
  runs = [
    stages.awq(**{k: v for k, v in ROUNDED.items() if k != 'stage'}, bits=4),
    stages.salient(bits=4, group=16, kept=0.5),
  ]
  base, mine = (language.token_losses(stage(model.net, Run(data)), x).mean(1) for stage in runs)
  found = stats.ttest_1samp(mine - base, 0).confidence_interval(0.95)
  row = cells['half', 4]
  ends = [row[f'perplexity_change{end}'] for end in ('', '_low', '_high')]
  assert np.allclose(ends, np.expm1([(mine - base).mean(), *found]), rtol=1e-2, atol=1e-4)
  change = row['divergence'][0] / cells['rtn', 4]['divergence'][0] - 1
  assert np.isclose(row['divergence_change'], change, rtol=1e-3)
  assert 'perplexity_change' not in cells['rtn', 4]


def test_what_stages_tell_of_themselves_is_in_their_cells(cells):
  row = cells['scaled', 3]
  assert 0 < row['changed'] < 1 and row['growth'] > 1 and 0 < row['error'][0] < 1
  assert np.isclose(row['really_kept'], (6 * 3 + 5) / (6 * 32 + 48))
  assert 'error' not in cells['rtn', 3]  # plain rounding looks at no text
  assert cells['half', 3]['error'] < cells['scaled', 3]['error']


def test_statistics_are_gathered_once_for_all_cells(tiny, tmp_path, monkeypatch):
  """And the cells are those whose stage gathers its own."""
  model, data = tiny
  searched = dict(stage='awq', group=16, tokens=0, batch=1)
  methods = dict(
    awq=dict(searched, clip=True), gptq=dict(searched, scaling='none', rounding='gptq'),
    half=dict(METHODS['half'], batch=1),
  )  # fmt: skip
  blocks = counted(monkeypatch)
  run = Run(data, workdir=tmp_path)
  stages.compare(methods=methods, grid=GRID)(model.net, run)
  # of two blocks: the tokens that search and those that judge, and all for the one without
  assert len(blocks) == 2 * 3
  stages.compare(methods=dict(half=methods['half']))(model.net, run.child('again'))
  assert len(blocks) == 2 * 3
  monkeypatch.undo()
  for name, how in methods.items():
    by_itself(model, data, how, measured(run)[name, 3], bits=3)


def test_inputs_of_8_bits_are_judged_on_few_texts_and_statistics_are_shared(
  tiny, tmp_path, monkeypatch
):
  model, data = tiny
  eight = dict(stage='awq', group='channel', symmetric=True, clip=False, batch=1)
  ways = {
    f'{scaling}-{by}': dict(eight, scaling=scaling, activations=by)
    for scaling in ('none', 'smooth') for by in ('token', 'tensor')
  }  # fmt: skip
  blocks = counted(monkeypatch)
  run = Run(data, workdir=tmp_path)
  stages.compare(methods=ways, grid=dict(bits=(8,)))(model.net, run)
  assert len(blocks) == 2 * 2 < 2 * len(ways)
  monkeypatch.undo()
  for name, how in ways.items():
    by_itself(model, data, how, measured(run)[name, 8], bits=8)


def counted(monkeypatch) -> list:
  """One for each time that statistics of a block are gathered for many."""
  blocks, gathered = [], seen.calibrate
  count = lambda *args, **more: blocks.append(args) or gathered(*args, **more)
  monkeypatch.setattr(seen, 'calibrate', count)
  return blocks


def by_itself(model, data, how, row, **point):
  """Asserts that a cell's row is what its stage by itself makes."""
  alone, own = {k: v for k, v in how.items() if k != 'stage'}, Run(data)
  net = getattr(stages, how['stage'])(**point, **alone)(model.net, own)
  losses = language.token_losses(net, data.test.x).mean(dtype=np.float64)
  assert np.isclose(row['perplexity'][0], np.exp(losses), rtol=1e-4), row
  errors = [r['error'] for r in own.rows if r['kind'] == 'quantized']
  assert np.isclose(row['error'][0], np.mean(errors), rtol=1e-3), row


def test_a_stop_in_a_cell_changes_no_row(tiny, tmp_path, monkeypatch):
  model, data = tiny
  compare = lambda run: stages.compare(
    methods=METHODS, grid=dict(bits=(3,)), baseline=dict(net='rtn')
  )(model.net, run)
  whole = Run(data)
  compare(whole)
  looked = language.divergences

  def dies(net, *rest):
    if not isinstance(net.module, Served) and net is not model.net:
      raise RuntimeError('crash')
    return looked(net, *rest)

  monkeypatch.setattr(language, 'divergences', dies)
  with pytest.raises(RuntimeError):
    compare(Run(data, workdir=tmp_path, save_every=0))
  monkeypatch.undo()
  again = Run(data, workdir=tmp_path, save_every=0)
  compare(again)
  assert measured(again) == measured(whole)


def test_images_and_several_seeds(fresh):
  net, run = fresh((0, 1))
  few = dict(stage='quantize', group='channel', examples=128, batch=64)
  compare = stages.compare(
    methods=dict(rtn=few, clip=dict(few, clip=True)), grid=dict(bits=(2,)), each=True,
    baseline=dict(net='rtn'),
  )  # fmt: skip
  assert compare(net, run) is net
  x, y = run.data.test
  packed = stages.quantize(bits=2, group='channel', examples=128)(net, fresh((0, 1))[1])
  exact, found = logits(net, x), logits(packed, x)
  row = measured(run)['rtn', 2]
  error = ((found - exact) ** 2).sum((1, 2)) / (exact**2).sum((1, 2))
  assert np.allclose(row['output_error'], error, rtol=1e-4)
  assert np.allclose(row['accuracy'], (found.argmax(-1) == y).mean(1), atol=1e-6)
  linears = [row for row in run.rows if row['kind'] == 'quantized']
  assert [(row['net'], row['linear'], row['bits']) for row in linears] == [
    (name, linear, 2) for name in ('rtn', 'clip') for linear in ('fc1', 'fc2')
  ]
  mean = np.mean([row['error'] for row in linears[:2]], 0)
  assert np.allclose(row['error'], mean, rtol=1e-5)
  assert 'output_error_change_low' in measured(run)['clip', 2]


@pytest.mark.parametrize(
  'bad, message',
  [
    (dict(methods={}), 'nothing to compare'),
    (dict(grid=dict(bits=())), 'nothing to compare'),
    (dict(baseline=dict(net='awq')), r"no cell is as baseline=\{'net': 'awq'\} says"),
    (dict(methods=dict(a=dict(stage='awk'))), "config.methods.a.stage='awk' is not in"),
    (dict(grid=dict(bit=(4,))), "config.methods.rtn has no 'bit'. Did you mean 'bits'"),
    (dict(grid=dict(bits=(5,))), 'bits=5 must be one of'),
  ],
)
def test_what_cannot_be_is_one_line(bad, message):
  with pytest.raises(UsageError, match=message):
    stages.compare(**dict(methods=METHODS, grid=GRID) | bad)
