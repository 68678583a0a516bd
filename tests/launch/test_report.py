"""`launch.report`: merging, committed rows, the README's tables, one-line errors."""

import json

import pytest

from launch import report
from reduction.errors import UsageError

MEASURE = dict(kind='level', net='ticket', kept=0.5, key='early_stop_step')
PAPER = {
  'R1': dict(claim='sooner', paper='38 %', measure=dict(
    MEASURE, how='relative', against=dict(kept=1.0))),
  'R2': dict(claim='deeper', paper='1 %', measure=dict(MEASURE, kept=0.01, how='value')),
}  # fmt: skip
README = 'top\n<!-- results:lottery -->\nold\n<!-- /results:lottery -->\nbottom\n'


def make(folder, seeds, stops, config='configs/lottery/lenet.py', steps=100, **more):
  """A workdir: a dense level and one at 50 %, whose early stops are `stops`."""
  folder.mkdir()
  tags = dict(kind='level', summary=True, net='ticket', seeds=seeds, steps=steps)
  accuracy = dict(test_accuracy=[0.5] * len(seeds), early_stop_test_accuracy=[0.5] * len(seeds))
  rows = [
    dict(at='lottery/levels/0/ticket', level=0, kept=1.0, early_stop_step=[100] * len(seeds),
         **tags, **accuracy),
    dict(at='lottery/levels/1/ticket/train', kind='curve', net='ticket', level=1, kept=0.5,
         step=100, test_accuracy=stops),
    dict(at='lottery/levels/1/ticket', level=1, kept=0.5, early_stop_step=stops, **tags,
         **accuracy),
    dict(at='', kind='stage', summary=True, stage='lottery', seeds=seeds, params=100,
         nonzero=[50] * len(seeds), accuracy=[0.5] * len(seeds)),
  ]  # fmt: skip
  settings = dict(title='T', seeds=seeds, lottery=dict(steps=steps), paper=PAPER, **more)
  command = f'python -m launch.run --config={config} --config.seeds={seeds[0]}, --workdir={folder}'
  session = dict(seconds=60, hardware='2 x A, cpu', versions=dict(jax='1'), command=command)
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  (folder / 'config.json').write_text(json.dumps(settings))
  (folder / 'sessions.jsonl').write_text(json.dumps(session) + '\n')
  return folder


def sources(*paths):
  """What the arguments of the command line become."""
  return report.merged([report.read(path) for path in paths])


@pytest.fixture
def pair(tmp_path):
  """Two workdirs of one config with different seeds."""
  return make(tmp_path / 'a', [0, 1], [50, 60]), make(tmp_path / 'b', [7], [70])


def test_seeds_of_one_config_are_merged(pair):
  (merged,) = sources(*pair)
  assert merged.name == 'lottery/lenet' and merged.header['resolved']['seeds'] == [0, 1, 7]
  level = next(row for row in merged.rows if row['kind'] == 'level' and row['level'] == 1)
  assert level['seeds'] == [0, 1, 7] and level['early_stop_step'] == [50, 60, 70]
  curve = next(row for row in merged.rows if row['kind'] == 'curve')
  assert curve['test_accuracy'] == [50, 60, 70]


def test_other_settings_are_not_merged(pair, tmp_path):
  assert len(sources(*pair, make(tmp_path / 'c', [0], [9], steps=200))) == 2


def test_export_reads_back_and_adds_nothing_beside_its_workdirs(pair, tmp_path):
  path = tmp_path / 'lenet.jsonl'
  path.write_text(report.export(*sources(*pair)))
  header, *rows = map(json.loads, path.read_text().splitlines())
  assert header['kind'] == 'run' and header['config'] == 'configs/lottery/lenet.py'
  assert header['seconds'] == 120 and header['config_overrides'] == {'seeds': '0,'}
  assert {row['kind'] for row in rows} == {'level', 'stage'}  # curves stay in the workdir
  for again in (sources(path), sources(*pair, path), sources(path, pair[1])):
    (same,) = again
    assert report.results([same], [same]) == report.results(*[sources(*pair)] * 2)


def test_export_names_no_path_of_this_machine(pair, tmp_path):
  text = report.export(*sources(*pair))
  assert str(tmp_path) not in text and '--workdir=runs/a && python -m' in text


@pytest.mark.parametrize(
  'command, expected',
  [
    ('--config=/x/configs/q.py:quick', '--config=configs/q.py:quick'),
    ('--data_dir=/mnt/x --workdir=/a/b --profile', '--workdir=runs/b --profile'),
    ('--data_dir /mnt/x --workdir /a/b', '--workdir=runs/b'),
    ("'--config.seeds=(0, 1)' --workdir=runs/b", "'--config.seeds=(0, 1)' --workdir=runs/b"),
  ],
)
def test_portable(command, expected):
  assert report.portable(f'python -m launch.run {command}') == f'python -m launch.run {expected}'


def test_too_large_an_export_is_refused(pair, monkeypatch):
  monkeypatch.setattr(report, 'MOST', 1000)
  with pytest.raises(UsageError, match='more than the 1,000 that a results file may hold'):
    report.export(*sources(*pair))


def test_readme_holds_ours_beside_the_papers(pair):
  text = report.replaced(README, sources(*pair), 'README.md')
  lines = text.splitlines()
  assert lines[:2] + lines[-2:] == [README.splitlines()[i] for i in (0, 1, -2, -1)]
  # 50, 60 and 70 against 100: mean -40 %, s 10, 4.3027 * 10 / sqrt(3) = 24.8
  assert '| R1 | sooner | 38 % | \N{MINUS SIGN}40 % [\N{MINUS SIGN}65, \N{MINUS SIGN}15] |' in text
  assert '| R2 | deeper | 1 % | not run: no level with kept 1 % | " | " | " |' in text
  assert '`configs/lottery/lenet.py`' in text and '2 x A, cpu, 2 min 0 s' in text
  assert 'old' not in text and report.replaced(text, sources(*pair), 'README.md') == text


def test_a_scaled_down_variant_has_its_own_table(pair, tmp_path):
  quick = make(tmp_path / 'q', [0], [50], config='configs/lottery/lenet.py:quick', steps=10)
  text = report.replaced(README, sources(*pair, quick), 'README.md')
  whole, _, scaled = text.partition('**Scaled down (quick): T**')
  assert whole.count('| R1 |') == scaled.count('| R1 |') == 1 and 'one seed, no interval' in scaled


def test_a_claim_compares_with_another_run(pair, tmp_path):
  measure = dict(kind='level', net='ticket', kept=0.5, key='early_stop_step', how='difference')
  claim = dict(claim='c', paper='p', measure=dict(measure, against=dict(run='lottery/lenet')))
  quick = make(tmp_path / 'q', [0, 1], [70, 90], config='configs/lottery/lenet.py:quick', steps=10)
  config = json.loads((quick / 'config.json').read_text())
  (quick / 'config.json').write_text(json.dumps(dict(config, paper=dict(R6=claim))))
  marked = README.replace('results:lottery', 'results:lottery/lenet:quick')
  text = report.replaced(marked + README, sources(*pair, quick), 'README.md')
  assert '| R6 | c | p | no difference found (+25 [' in text  # 70, 90 against 50, 60
  alone = report.replaced(marked, sources(quick), 'README.md')
  assert 'not run: no rows of kind level of lottery/lenet ' in alone


def compared(folder, groups, values, seconds=60):
  """A workdir that compares methods at some groups; perplexities are values."""
  folder.mkdir()
  tags = dict(at='weights', kind='cell', summary=True, seeds=[0], bits=4)
  rows = [dict(at='weights', kind='cell', summary=True, seeds=[0], net='float', perplexity=[5.0])]
  rows += [dict(tags, net='rtn', group=g, perplexity=[v]) for g, v in zip(groups, values)]
  spec = dict(title='All', kind='cell', rows='group', columns='net', values='perplexity')
  weights = dict(stage='compare', grid=dict(bits=[4], group=groups))
  settings = dict(title='T', seeds=[0], weights=weights, tables=dict(all=spec))
  command = f'python -m launch.run --config=configs/awq/landscape.py --workdir=runs/{folder.name}'
  session = dict(seconds=seconds, hardware='2 x A, cpu', versions={}, command=command)
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  (folder / 'config.json').write_text(json.dumps(settings))
  (folder / 'sessions.jsonl').write_text(json.dumps(session) + '\n')
  return folder


def test_runs_that_differ_in_their_grids_are_one_table(tmp_path):
  one = compared(tmp_path / 'one', [64], [5.7])
  two = compared(tmp_path / 'two', [192, 64], [6.25, 5.7], 90)
  (merged,) = sources(one, two)
  assert merged.header['resolved']['weights']['grid'] == dict(bits=[4], group=[64, 192])
  marked = README.replace('lottery', 'awq/landscape')
  text = report.replaced(marked, [merged], 'README.md')
  assert '*All*\n\n|  | RTN |'.replace('RTN', 'rtn') in text and 'float: perplexity 5.00.' in text
  assert text.count('| 64 | 5.70 |') == text.count('| 192 | 6.25 |') == 1
  assert '`configs/awq/landscape.py`' in text and '2 x A, cpu, 2 min 30 s.' in text
  path = tmp_path / 'rows.jsonl'
  path.write_text(report.export(merged))
  assert report.results(sources(path), []) == report.results([merged], [])
  with pytest.raises(UsageError, match='no <!-- results:awq/landscape'):
    report.replaced(README, [merged], 'README.md')


def test_rows_without_claims_need_no_place_in_a_readme():
  bench = report.Source('bench/lenet', {'resolved': {}}, [], [])
  assert report.replaced(README, [bench], 'README.md') == README


@pytest.mark.parametrize(
  'readme, message',
  [
    ('nothing', 'README.md has no <!-- results:lottery/lenet -->; its markers: none'),
    (README.replace('/results', 'x'), 'a results marker lacks its end'),
    (README.replace('lottery', 'lotery'), 'its markers: lotery'),
  ],
)
def test_a_readme_without_the_markers_is_refused(pair, readme, message):
  with pytest.raises(UsageError, match=message):
    report.replaced(readme, sources(*pair), 'README.md')


def test_from_the_command_line(launch, pair, tmp_path):
  readme, page, rows = (tmp_path / name for name in ('README.md', 'page.html', 'rows.jsonl'))
  readme.write_text(README)
  flags = f'--readme={readme}', f'--html={page}', f'--export={rows}'
  result = launch(*pair, *flags, module='launch.report')
  assert (result.code, result.err) == (0, '')
  assert '| R1 |' in readme.read_text() and 'Levels' in page.read_text()
  assert rows.read_text().startswith('{"kind": "run"')
  space = 'configs/mcunet/results/space.jsonl'
  result = launch(space, f'--pictures={tmp_path}', module='launch.report')
  assert (result.code, result.out) == (0, '')
  assert (tmp_path / 'space-cdf.svg').read_text().count('stm32f746') == 1
  result = launch(pair[0], module='launch.report')
  assert result.code == 0 and 'level 1 ticket' in result.out and (pair[0] / 'report.html').exists()


@pytest.mark.parametrize(
  'arguments, code, message',
  [
    ([], 2, 'name a workdir or a file of rows'),
    (['{}/nowhere'], 66, 'nowhere is neither a workdir nor a file of rows'),
    (['{}/a', '--redame=x'], 2, 'Did you mean: readme'),
    (['{}/a', '--readme={}/no.md'], 66, 'no.md is not there'),
    (['{}/a', '--pictures={}'], 2, 'has no figure that its rows fill'),
    (['{}/a/config.json'], 65, 'config.json:1'),
    (['{}/a', '{}/c', '--export={}/x'], 2, '--export takes the seeds of one config'),
    (['{}/a', '--html={}/a/metrics.jsonl/x'], 74, 'cannot write'),
  ],
)
def test_a_mistake_is_one_line(launch, pair, tmp_path, arguments, code, message):
  make(tmp_path / 'c', [0], [9], steps=200)
  result = launch(*(a.format(tmp_path) for a in arguments), module='launch.report')
  assert result.code == code and len(result.lines) == 1, result.err
  assert result.lines[0].startswith('error: ') and message in result.lines[0]


def test_a_full_disk_keeps_the_old_page(launch, pair, tmp_path):
  page = tmp_path / 'page.html'
  page.write_text('old')
  result = launch(pair[0], f'--html={page}', module='launch.report', file_size=2000)
  assert result.code == 74 and 'page.html' in result.lines[-1], result.err
  assert page.read_text() == 'old' and not list(tmp_path.glob('.page*'))
