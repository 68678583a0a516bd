"""What is said of kernels is shown by a test."""

import ast
import json
import pathlib

from reduction.kernels import stated

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_every_claim_names_a_test_or_config_that_is_there():
  for row in stated.TABLE:
    for claim in row[2:]:
      if claim == stated.NO:
        continue
      path, _, name = claim.partition('::')
      text = (ROOT / path).read_text()
      assert name == '' or name in {getattr(node, 'name', '') for node in ast.parse(text).body}


def test_what_is_said_to_compile_is_what_was_compiled():
  compiled = {
    (f'TPU {case["chip"]}' if 'chip' in case else 'H100', str(case['bits']))
    for name in ('tpu', 'gpu')
    for case in map(json.loads, (ROOT / f'tests/kernels/{name}.jsonl').read_text().splitlines())
  }
  said = {(row.hardware, bits) for row in stated.TABLE if row.compiles != stated.NO
          for bits in row.bits.split(', ')}  # fmt: skip
  assert compiled == said


def test_the_table_says_no_where_nothing_shows_it():
  head, _, first, *_ = stated.markdown().splitlines()
  assert head == (
    '| hardware | bits | compiles | correct in interpret mode | ran there | measured |'
  )
  assert first == '| TPU v5e | 4, 3 | yes | yes | no | no |'
