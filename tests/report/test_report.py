"""Reports: hand-computed numbers, escaping, the figures' and claims' schemas, one real browser."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from reduction import report
from reduction.errors import DataError, MissingInput, StorageError, UsageError
from reduction.report import claims, figures, intervals, pool, tables

MINUS, TIMES = intervals.MINUS, intervals.TIMES
EVIL = '<script>alert("&|`x`")</script>'
SEEDS = [0, 1, 2]


def level(number, kept, stop, accuracy, net='ticket', seeds=SEEDS, at=''):
  """A level's row."""
  return dict(
    at=f'lottery/levels/{number}/{at or net}', kind='level', summary=True, net=net, level=number,
    kept=kept, seeds=seeds, early_stop_step=stop, early_stop_test_accuracy=accuracy,
    test_accuracy=accuracy, steps=1000,
  )  # fmt: skip


def stage(name, nonzero, size, accuracy, seeds=SEEDS):
  """A row of the before/after table."""
  return dict(
    at='', kind='stage', summary=True, stage=name, seeds=seeds, metric='accuracy', params=1000,
    accuracy=accuracy, nonzero=nonzero, bytes=size, macs=900,
  )  # fmt: skip


ROWS = [
  stage('start', 1000, 4000, [0.1, 0.1, 0.1]),
  level(0, 1.0, [600, 800, 700], [0.90, 0.92, 0.91]),
  level(1, 0.512, [300, 400, 500], [0.91, 0.93, 0.92]),
  level(1, 0.512, [900, 900, 900], [0.90, 0.90, 0.90], 'reinit', at='reinit0'),
  level(1, 0.512, [800, 1000, 900], [0.88, 0.90, 0.92], 'reinit', at='reinit1'),
  dict(kind='weather', summary=True, sky=EVIL),
  stage('lottery', [512, 512, 512], [2173, 2173, 2173], [0.91, 0.93, 0.92]),
]
CURVES = [
  dict(at=f'lottery/levels/{n}/ticket/train', kind='curve', net='ticket', level=n, kept=kept,
       step=step, test_accuracy=[0.9 + step / 1e5, 0.91, 0.92])
  for n, kept in ((0, 1.0), (1, 0.512)) for step in range(100, 1100, 100)
]  # fmt: skip
FIGURE = dict(
  title='Figure 1', kind='level', x='kept', x_scale='log', x_reverse=True, lines='net',
  where=dict(net=['ticket', 'reinit', 'absent']), dashed=['reinit'],
  panels=dict(a=dict(y='early_stop_step'), b=dict(y='test_accuracy')),
)  # fmt: skip
CURVE = dict(kind='curve', x='step', y='test_accuracy', lines='kept', spread='band')
CONFIG = dict(
  title='Tickets', seeds=SEEDS, model=dict(name='lenet'), data=dict(name='digits'),
  stages=['lottery'], figures=dict(figure1=FIGURE, figure3=CURVE),
)  # fmt: skip
SESSIONS = [dict(seconds=70.2, hardware='2 x A, cpu', versions=dict(jax='1'), command='python x')]


def measure(**settings):
  """The answer to one claim about ROWS."""
  settings = dict(kind='level', net='ticket', kept=0.51, key='early_stop_step') | settings
  claim = dict(claim='c', paper='p', measure=settings)
  return claims.answers(ROWS, dict(R1=claim))[0].ours


def test_what_was_taught_has_a_table_of_its_own():
  at = lambda stage, kind, **more: dict(at=stage, kind=kind, summary=True, seeds=SEEDS, **more)
  tuned = at('dense', 'tune', test_errors=[5, 6, 7], test_accuracy=[0.95, 0.94, 0.93])
  assert not tables.lessons([*ROWS, tuned]).rows
  taught = [
    tuned,
    at('soft', 'distill', student='mlp 30', temperature=4.0, soft=1.0, hard=0.1, examples=900,
       test_errors=[8, 8, 8], test_accuracy=[0.92] * 3, missing_accuracy=[0.5, 0.25, 0.75]),
    at('fixed', 'correct', shift=[3.5, 3.0, 4.0], test_errors=[6, 6, 6]),
  ]  # fmt: skip
  table = tables.lessons([*ROWS, *taught])
  assert table.columns[:3] == ('stage', 'net', 'T') and 'word errors (%)' not in table.columns
  rows = [dict(zip(table.columns, row)) for row in table.rows]
  assert [row['net'] for row in rows] == ['trained', 'mlp 30', 'corrected']
  assert rows[0]['test errors'] == '6 [5, 7]' and rows[0]['T'] == intervals.NONE
  assert rows[1]['of classes not seen (%)'] == '50.00 [25.00, 75.00]' and rows[1]['T'] == '4'
  assert rows[2]['added to biases'] == '3.5 [3, 4]'


@pytest.mark.parametrize(
  'settings, expected',
  [
    (dict(how='value'), '400 [300, 500]'),
    (dict(how='value', key='test_accuracy'), '92.00 % [91.00, 93.00]'),
    # 400 / 700 - 1; (a - 4/7 b) / 700 is -.061, -.082, .143: +- 4.303 * .124 / 3 ** .5
    (dict(how='relative', against=dict(kept=1.0)), f'{MINUS}43 % [{MINUS}74, {MINUS}12]'),
    # -300, -400, -200
    (dict(how='difference', against=dict(kept=1.0)), f'{MINUS}300 [{MINUS}548, {MINUS}52]'),
    (dict(how='difference', against=dict(kept=1.0), key='test_accuracy'), '+1.00 pp [1.00, 1.00]'),
    # a control's draws count as their mean: 850, 950, 900; logs of the ratios 1.0415 .8650 .5878
    (dict(how='ratio', net='reinit', against=dict(net='ticket')), f'2.30{TIMES} [1.30, 4.05]'),
    (dict(how='value', kept=0.21), 'not run: no level with kept 21 %'),
    (dict(how='value', net='reinot'), 'not run: no level with net reinot'),
    (dict(how='value', kind='curve'), 'not run: no rows of kind curve'),
    (dict(how='value', key='tset_accuracy'), "not measured: 'tset_accuracy' is in no"),
  ],
)  # fmt: skip
def test_measure(settings, expected):
  assert measure(**settings).startswith(expected), measure(**settings)


def test_bootstraps_of_runs_of_a_seed_each_stand_one_after_another():
  of = lambda seed, gain: dict(at='over', kind='versus', seeds=[seed], f1_gain=gain,
                               f1_gain_low=gain - 0.02, f1_gain_high=gain + 0.02)  # fmt: skip
  rows = pool.merge([[of(0, -0.05)], [of(1, 0.01)]])
  measure = dict(kind='versus', at='over', key='f1_gain', how='bootstrap')
  said = dict(a=dict(claim='c', paper='p', measure=measure))
  (answer,) = claims.answers(rows, said)
  first, second = answer.ours.removesuffix(', seed by seed').split('; ')
  assert first.startswith(f'{MINUS}5.00 pp [{MINUS}7.00, {MINUS}3.00]')
  assert second.startswith('no difference found')


def test_measure_of_several_nets_is_refused():
  claim = dict(kind='level', key='early_stop_step', how='value', level=1)
  answer = claims.answers(ROWS, dict(a=dict(claim='c', paper='p', measure=claim)))[0].ours
  assert answer.startswith('not measured') and 'net reinit, ticket; name one net' in answer


def test_not_run_says_why():
  claim = dict(claim='c', paper='3.5', why='needs a GPU for 2 h', measure=dict(
    kind='level', net='conv4', key='early_stop_step', how='value'))  # fmt: skip
  answer = claims.answers(ROWS, dict(R10=claim))[0]
  assert answer.ours == 'not run: needs a GPU for 2 h' and not answer.run


@pytest.mark.parametrize(
  'broken, message',
  [
    (dict(figures=dict(f=dict(FIGURE, x_scle='log'))), "f has no 'x_scle'. Did you mean 'x_scale'"),
    (dict(figures=dict(f=dict(FIGURE, panels=dict(a=dict(yy='s'))))), "panels.a has no 'yy'."),
    (dict(figures=dict(f=dict(kind='level', x='kept'))), "f needs 'y'"),
    (dict(figures=dict(f=dict(CURVE, spread='minmax'))), "'minmax' is not one of bars, band, none"),
    (dict(figures=dict(f=dict(CURVE, y_range=[1, 0]))), 'must be two numbers, the lower first'),
    (dict(figures=dict(f=dict(CURVE, panels=[{}]))), 'f.panels=[{}] must be a dict'),
    (dict(paper=dict(R=dict(claim='c', papr='p'))), "R has no 'papr'. Did you mean 'paper'"),
    (dict(paper=dict(R=dict(claim='c', paper='p'))), "R needs 'measure'"),
    (dict(paper=dict(R=dict(claim='', paper='', measure=dict(kind='level', key='k', how='ratoi')))),
     "'ratoi' is unknown. Did you mean 'ratio'"),
    (dict(paper=dict(R=dict(claim='', paper='', measure=dict(kind='level', key='k', how='ratio')))),
     "'ratio' needs an against"),
  ],
)  # fmt: skip
def test_what_is_not_documented_is_refused(broken, message):
  with pytest.raises(UsageError, match=re.escape(message)):
    report.check(broken)


def test_before_after_table():
  made = report.table(ROWS)[0]
  last = dict(zip(made.columns, made.rows[-1]))
  assert last == {  # no column for peak memory and energy, which no row has
    'stage': 'lottery', 'weights not 0': '512', 'kept (%)': '51.2', 'size': '2.17 kB',
    'accuracy (%)': '92.00 [91.00, 93.00]', 'early-stop step': '400 [300, 500]',
    'smaller': f'1.84{TIMES}', 'multiply-adds': '900',
  }  # fmt: skip


def test_level_table_pools_a_controls_draws():
  made = report.table(ROWS)[1]
  lines = [dict(zip(made.columns, row)) for row in made.rows]
  assert [line['net'] for line in lines] == ['ticket', 'ticket', 'reinit']
  assert lines[2]['early-stop step'] == '900 [800, 1,000]'
  assert lines[1]['against dense (pp)'] == '+1.00 [1.00, 1.00]'
  # a reinit's means .89 .90 .91 less .90 .92 .91: -1, -2, 0 pp
  assert lines[2]['against dense (pp)'].startswith(f'no difference {MINUS}1.00 [')


def test_nearest_level_is_chosen_within_five_percent():
  chosen, absent = pool.select(ROWS, dict(net='ticket', kept=[0.5, 0.9]))
  assert [row['level'] for row in chosen] == [1] and absent == ['kept 90 %']


def test_merge_concatenates_seeds():
  a = [level(0, 1.0, [1, 2], [0.5, 0.6], seeds=[0, 1])]
  b = [level(0, 1.0, [3], [0.7], seeds=[5]), level(1, 0.8, [4], [0.8], seeds=[5])]
  merged = pool.merge([a, b])
  assert merged[0]['seeds'] == [0, 1, 5] and merged[0]['early_stop_step'] == [1, 2, 3]
  assert merged[0]['kept'] == 1.0 and merged[1]['seeds'] == [5]
  assert pool.merge([merged, b, a]) == merged  # what is known adds nothing


def test_merge_keeps_costs_of_each_seed():
  merged = pool.merge([[stage('s', 9, 40, [0.5], [0])], [stage('s', 9, 50, [0.5], [1])]])
  assert merged[0]['bytes'] == [40, 50] and merged[0]['nonzero'] == 9


def test_a_seed_run_twice_with_other_results_is_refused():
  a, b = ([level(0, 1.0, [n], [0.5], seeds=[0])] for n in (1, 2))
  with pytest.raises(UsageError, match='seed 0 was run twice and early_stop_step differs'):
    pool.merge([a, b])


def test_same_rows_same_bytes():
  assert report.render(ROWS + CURVES, CONFIG, SESSIONS) == report.render(
    ROWS + CURVES, json.loads(json.dumps(CONFIG)), SESSIONS
  )


def test_nothing_that_rows_or_configs_say_is_markup():
  panel = dict(y='early_stop_step', title=EVIL, y_label=EVIL)
  figure = dict(FIGURE, title=EVIL, caption=EVIL, names=dict(ticket=EVIL), panels={EVIL: panel})
  measured = dict(kind='level', key=EVIL, how='value')
  paper = {EVIL: dict(claim=EVIL, paper=EVIL, why=EVIL, measure=measured)}
  evil = dict(CONFIG, title=EVIL, model=dict(name=EVIL), figures={EVIL: figure}, paper=paper)
  rows = [*ROWS, level(2, 0.4, [1, 2, 3], [0.9] * 3, net=EVIL), stage(EVIL, 9, 9, [1, 1, 1])]
  session = dict(seconds=1, hardware=EVIL, versions={EVIL: EVIL}, command=EVIL)
  markdown, html = report.render(rows, evil, [session], EVIL)
  assert '<script' not in html.lower() and html.count('&lt;script&gt;') > 12
  assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in html
  assert not re.search(r'(?:src|href)="(?!#)', html)  # nothing is fetched
  told = re.sub(r'(``) .* \1', '', markdown)  # the command, in a fence longer than its own ticks
  assert '<script' not in told and len(told) < len(markdown)
  cells = [len(re.findall(r'(?<!\\)\|', line)) for line in told.splitlines()]
  assert set(cells) == {0, 5, 7, 9}  # claims 4 columns, levels 6, stages 8: none broken


def test_figure_draws_what_rows_hold_and_names_what_they_lack():
  drawn = figures.draw('figure1', FIGURE, ROWS)
  assert drawn.absent == ('net absent',) and len(drawn.panels) == 2
  ticket, reinit = drawn.panels[0].lines
  assert (ticket.label, ticket.dashed, ticket.color) == ('ticket', False, 'd0')
  assert (reinit.dashed, reinit.color) == (True, 'd0')  # dashed, in the color of the line before
  assert list(ticket.x) == [0.512, 1.0] and list(ticket.mean) == [400, 700]
  assert list(reinit.least) == [800] and list(reinit.most) == [1000]
  svg = drawn.panels[0].svg
  ticks = re.findall(r'>(100|51\.2)</text>', svg)
  assert ticks == ['100', '51.2'] and 'var(--d0, #0072b2)' in svg


def test_small_numbers_on_an_axis_are_written_in_full():
  rows = [dict(kind='spectrum', index=i, share=10.0**-i, seeds=[0]) for i in range(5)]
  spec = dict(title='t', kind='spectrum', x='index', y='share', y_scale='log', spread='none')
  (panel,) = figures.draw('f', spec, rows).panels
  assert '>0.001<' in panel.svg and '>0.00<' not in panel.svg


def test_figure_without_rows_says_so():
  html = report.render(ROWS, CONFIG, SESSIONS)[1]
  assert 'Not run: no curve rows.' in html


def test_curves_are_ordered_by_kept_and_other_runs_drawn_only_if_named():
  other = [dict(row, run='one-shot') for row in CURVES]
  drawn = figures.draw('f', CURVE, CURVES + other).panels[0].lines
  assert [line.label for line in drawn] == ['100 %', '51.2 %'] and len(drawn[0].x) == 10
  assert [line.color for line in drawn] == ['o0', 'o23']  # the dense net is darkest
  both = dict(CURVE, lines='run', where=dict(run=['this run', 'one-shot'], kept=1.0))
  drawn = figures.draw('f', both, CURVES + other).panels[0].lines
  assert [line.label for line in drawn] == ['this run', 'one-shot']


@pytest.fixture
def workdir(tmp_path):
  """A finished run's files."""
  for name, content in (('metrics', ROWS + CURVES), ('sessions', SESSIONS)):
    lines = ''.join(json.dumps(row) + '\n' for row in content)
    (tmp_path / f'{name}.jsonl').write_text(lines)
  (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
  return tmp_path


def test_write(workdir):
  markdown, html = report.write(workdir)
  assert '1 min 10 s on 2 x A, cpu' in markdown.read_text()
  assert '| lottery | 512 | 51.2 |' in markdown.read_text()
  assert html.read_text().endswith('</html>\n')


@pytest.mark.parametrize('call', ['replace', 'fsync'])
def test_a_failed_write_keeps_the_old_report(workdir, monkeypatch, call):
  (workdir / 'report.md').write_text('old')

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, call, full)
  with pytest.raises(StorageError, match='No space left'):
    report.write(workdir)
  assert (workdir / 'report.md').read_text() == 'old' and not list(workdir.glob('*.tmp'))
  assert not list(workdir.glob('.*.tmp'))


@pytest.mark.parametrize(
  'text, error, message',
  [
    (None, MissingInput, 'metrics.jsonl is not there'),
    ('{"kind": "level"}\n{"kind": \n', DataError, 'metrics.jsonl:2 is not JSON'),
    ('[1]\n', DataError, 'metrics.jsonl:1 is no row'),
  ],
)
def test_damaged_rows_are_named(workdir, text, error, message):
  path = workdir / 'metrics.jsonl'
  path.unlink() if text is None else path.write_text(text)
  with pytest.raises(error, match=message):
    report.write(workdir)


def test_a_line_still_being_written_and_rows_written_again_are_left_out(workdir):
  path = workdir / 'metrics.jsonl'
  whole = pool.read(path)
  path.write_text(path.read_text() * 2 + '{"kind": "lev')
  assert pool.read(path) == whole


def test_show_ends_a_run(workdir, capsys):
  report.show(workdir)
  lines = capsys.readouterr().out.splitlines()
  columns = ['kept (%)', 'accuracy (%)', 'early-stop step', 'size']
  assert re.split(r'  +', lines[0].strip()) == columns
  assert [line.split('  ')[0] or line.strip().split('  ')[0] for line in lines[1:-1]] == [
    'start', 'level 0 ticket', 'level 1 ticket', 'level 1 reinit', 'lottery']  # fmt: skip
  assert lines[3].split()[:4] == ['level', '1', 'ticket', '51.2']


def test_terminal_table_takes_nothing_as_markup():
  from rich.console import Console

  console = Console(width=120, force_terminal=False, file=open(os.devnull, 'w'))  # noqa: SIM115
  with console.capture() as shown:
    console.print(tables.terminal(tables.brief([stage('[red]s[/]', 5, 20, [0.5, 0.6, 0.7])])))
  assert '[red]s[/]' in shown.get() and '[50.00, 70.00]' in shown.get()
  assert 'Mean [least, greatest] over seeds' in shown.get()


def test_a_browser_shows_the_page(workdir, tmp_path):
  browser = shutil.which('chromium') or shutil.which('google-chrome')
  if not browser:
    pytest.skip('no chromium on this machine')
  page, picture = report.write(workdir)[1], tmp_path / 'page.png'
  flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--hide-scrollbars',
           '--disable-background-networking', '--disable-component-update', '--disable-sync',
           f'--user-data-dir={tmp_path / "profile"}', '--window-size=800,1400']  # fmt: skip
  shown = subprocess.run(
    [browser, *flags, f'--screenshot={picture}', '--dump-dom', page.as_uri()],
    capture_output=True, text=True, timeout=60, check=True,
  )  # fmt: skip
  assert '<th scope="row" class="t">lottery</th>' in shown.stdout and '<svg' in shown.stdout
  pixels = matplotlib.image.imread(picture)[..., :3]
  assert pixels.shape[:2] == (1400, 800) and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
  blue = np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.02
  assert blue.sum() > 100  # the ticket's line


def test_importing_is_light():
  heavy = {'jax', 'matplotlib', 'rich', 'scipy'}
  code = f'import sys, reduction.report; print({heavy} & {{*sys.modules}})'
  found = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True,
    cwd=pathlib.Path(report.__file__).parents[2],
  )  # fmt: skip
  assert found.stdout == 'set()\n'
