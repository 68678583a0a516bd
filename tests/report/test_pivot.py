"""Tables with a field on each side: places, order, names, pooling, the paper's columns."""

import pytest

from reduction import report
from reduction.errors import UsageError
from reduction.report import pool
from reduction.report.intervals import INFINITE, MINUS, NONE
from reduction.report.pivot import pivoted


def cell(net, value, seeds=(0,), **fields):
  """A row of a comparison."""
  values = value if isinstance(value, list) else [value]
  return dict(
    at='weights', kind='cell', summary=True, net=net, seeds=list(seeds), perplexity=values, **fields
  )


ROWS = [
  cell('float', 5.474),
  cell('rtn', 9.0, bits=3, group='tensor'),
  cell('rtn', 5.73, bits=4, group=64),
  cell('awq', [6.2, 6.6], (0, 1), bits=3, group=64),
  cell('rtn', 6.66, bits=3, group=64),
  cell('rtn', 1.0, bits=4, group='tensor', run='another'),
  dict(cell('rtn', 1.0, bits=4, group='tensor'), kind='weather'),
]
SPEC = dict(
  title='T', note='Note.', kind='cell', rows='group', columns=('bits', 'net'), values='perplexity',
  where=dict(bits=(4, 3), net=('float', 'rtn', 'awq'), group=('tensor', 64)),
  names=dict(group={'tensor': 'per tensor', '64': 'groups of 64'}, bits='INT{}', net=dict(
    rtn='RTN', awq='AWQ')),
)  # fmt: skip


def test_lines_and_columns_in_the_order_of_where():
  made = pivoted(ROWS, SPEC)
  assert made.columns == ('', 'INT4, RTN', 'INT3, RTN', 'INT3, AWQ')
  assert made.rows == (
    ('per tensor', NONE, '9.00', NONE),
    ('groups of 64', '5.73', '6.66', '6.40 [6.20, 6.60]'),
  )
  assert made.note == 'float: perplexity 5.47. Note.'


def test_without_columns_each_value_has_one_and_the_net_before_a_line():
  rows = [dict(ROWS[0], error=0.0), dict(ROWS[4], error=[0.02], changed=0.5)]
  spec = dict(SPEC, rows=('bits', 'net'), columns=(), values=('perplexity', 'error', 'changed'))
  made = pivoted(rows, spec)
  assert made.columns == ('', 'perplexity', 'error', 'changed (%)')
  assert made.rows == (('float', '5.47', '0', NONE), ('INT3, RTN', '6.66', '0.02', '50.00'))


def test_a_change_has_its_interval_and_none_is_said_so():
  change = lambda *ends: dict(zip(('c_change', 'c_change_low', 'c_change_high'), ends))
  rows = [
    dict(cell('awq', 1.0, bits=4, group=64), **change(-0.041, -0.05, -0.032)),
    dict(cell('gptq', 1.0, bits=4, group=64), **change(0.01, -0.02, 0.04)),
    dict(cell('rtn', 1.0, bits=4, group=64)),
  ]
  where = dict(net=('gptq', 'awq'))
  made = pivoted(rows, dict(SPEC, columns='net', values='c_change', where=where))
  every = pivoted(rows, dict(SPEC, columns='net', values='c_change', where={}))
  assert every.columns == ('', 'AWQ', 'gptq')  # nothing stands under RTN
  none, less = made.rows[0][1:]
  assert less == f'{MINUS}4.1 % [{MINUS}5.0, {MINUS}3.2]'
  assert none == f'no difference found (+1.0 % [{MINUS}2.0, 4.0])'


@pytest.mark.parametrize(
  'ends, text',
  [
    ((0.5, 0.1, None), f'+50.0 % [10.0, {INFINITE}]'),  # None is infinite in rows
    ((0.0, -0.1, None), f'no difference found (0.0 % [{MINUS}10.0, {INFINITE}])'),
    ((0.5, None, None), 'not finite'),
    ((None, None, None), NONE),
  ],
)
def test_a_change_may_have_no_end(ends, text):
  change = dict(zip(('c_change', 'c_change_low', 'c_change_high'), ends))
  rows = [dict(cell('awq', 1.0), **change), dict(cell('rtn', 1.0), c_change=0.0)]
  made = pivoted(rows, dict(SPEC, rows='net', columns=(), values='c_change', where={}))
  assert dict(row[:2] for row in made.rows).get('AWQ', NONE) == text


def test_floats_mean_the_nearest_and_fractions_are_percents():
  rows = [cell(net, kept * 100, kept=kept) for kept in (0.0, 0.01, 0.0301) for net in ('a', 'b')]
  rows += [cell('a', 7.0, kept=0.01, draw=draw) for draw in (0, 1)]
  spec = dict(kind='cell', rows='kept', columns='net', values='perplexity')
  made = pivoted(rows, dict(spec, where=dict(kept=(0.03, 0.01), net=('b', 'a'))))
  assert made.columns == ('', 'b', 'a')
  assert made.rows == (('3.0 %', '3.01', '3.01'), ('1.0 %', '1.00', '5.00 [1.00, 7.00]'))


def test_the_papers_columns_stand_behind_and_what_only_they_have_was_not_run():
  paper = (('Llama-2-7B', (('groups of 64', '5.60'), ('groups of 128', '5.61'))),)
  made = pivoted(ROWS, dict(SPEC, columns='net', where=dict(bits=3, group=64), paper=paper))
  assert made.columns == ('', 'AWQ', 'RTN', 'Llama-2-7B')
  assert made.rows == (
    ('groups of 64', '6.40 [6.20, 6.60]', '6.66', '5.60'),
    ('groups of 128', 'not run', 'not run', '5.61'),
  )
  assert pivoted([], dict(SPEC, paper=paper)).rows == ()


def test_a_report_holds_the_tables_of_its_config():
  tables = dict(b=dict(SPEC, title='Second'), a=dict(SPEC, title='First'), c=dict(SPEC, kind='no'))
  config = dict(title='x', seeds=[0], tables=tables)
  assert [table.title for table in report.pivots(ROWS, config)] == ['First', 'Second']
  markdown, html = report.render(ROWS, config)
  assert markdown.index('## First') < markdown.index('## Second')
  assert '| groups of 64 | 5.73 | 6.66 | 6.40 \\[6.20, 6.60\\] |'.replace('\\', '') in markdown
  assert 'INT3, AWQ' in html


def test_cells_of_several_runs_are_one():
  one, other = [ROWS[0], ROWS[1], ROWS[2]], [ROWS[0], ROWS[4]]
  assert pool.merge([one, other]) == [*one, ROWS[4]]
  with pytest.raises(UsageError, match='seed 0 was run twice and perplexity differs'):
    pool.merge([one, [dict(ROWS[1], perplexity=[8.0])]])


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(value='x'), "tables.t has no 'value'. Did you mean 'values'"),
    (dict(rows=()), "tables.t needs 'rows'"),
    (dict(where=('net',)), r"tables.t.where=\('net',\) must be a dict"),
    (dict(paper=(('OPT', 'x', 'y'),)), r'paper: .* must be \(heading, \(\(line, text\)'),
  ],
)
def test_what_is_not_documented_is_refused(change, message):
  with pytest.raises(UsageError, match=message):
    report.check(dict(tables=dict(t=dict(SPEC, **change))))


def test_a_table_may_take_all_rows_of_its_kind_and_their_own_names():
  spec = {key: SPEC[key] for key in ('title', 'kind', 'values')} | dict(rows='net')
  report.check(dict(tables=dict(t=spec)))
  assert pivoted(ROWS[2:3], spec).rows == (('rtn', '5.73'),)


def test_texts_stand_in_cells_as_they_are():
  rows = [dict(kind='k', net=n, said=s, seeds=[0]) for n, s in (('a', '160 x 0.5'), ('b', None))]
  table = pivoted(rows, dict(title='t', kind='k', rows='net', values=('said',)))
  assert table.rows == (('a', '160 x 0.5'), ('b', NONE))
