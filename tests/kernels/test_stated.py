"""What is said of kernels is shown by a test."""

import ast
import json
import pathlib

from reduction.kernels import stated

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_every_claim_names_a_test_or_rows_that_are_there():
  for row in stated.TABLE:
    for claim in row[2:-1]:
      if claim != stated.NO:
        path, _, name = claim.partition('::')
        there = ast.parse((ROOT / path).read_text()).body
        assert name in {getattr(node, 'name', '') for node in there}


def test_what_is_said_to_be_measured_has_rows_of_these_instructions_and_bits():
  for row in stated.TABLE:
    if row.measured != stated.NO:
      head, *rows = map(json.loads, (ROOT / row.measured).read_text().splitlines())
      newest = head['hardware'].rsplit(', ', 1)[-1].removeprefix('cpu with ')
      assert row.hardware.endswith(newest)
      products = {line.get('product') for line in rows}
      assert {f'INT{bits}' for bits in row.what.split(', ')} <= products


def test_what_is_said_to_compile_is_what_was_compiled():
  compiled = {
    (f'TPU {case["chip"]}' if 'chip' in case else 'H100', str(case['bits']))
    for name in ('tpu', 'gpu')
    for case in map(json.loads, (ROOT / f'tests/kernels/{name}.jsonl').read_text().splitlines())
  }
  products = [row for row in stated.TABLE if row.what != stated.TO_MEMORY]
  compiled_for = [row for row in products if row.compiles not in (stated.NO, stated.CPU)]
  said = {(row.hardware, bits) for row in compiled_for for bits in row.what.split(', ')}
  assert compiled == said


def test_the_readme_says_what_is_stated():
  assert stated.markdown() in (ROOT / 'README.md').read_text()


def test_the_table_says_no_where_nothing_shows_it():
  head, _, first, *_ = stated.markdown().splitlines()
  assert head == (
    '| hardware | kernel | compiles | correct in interpret mode | ran there | measured |'
  )
  assert first == '| TPU v5e | products, 4, 3 bits | yes | yes | no | no |'
