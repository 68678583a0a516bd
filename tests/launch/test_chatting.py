"""The benchmark of language models beside llama.cpp: its arithmetic, by hand, and that it runs."""

import importlib
import json

import pytest

from launch.benchmarks.sides import Session
from reduction.errors import UsageError
from reduction.kernels import native

chatting = importlib.import_module('launch.benchmarks.chatting')
SETTINGS = dict(model='tiny', prompt=4, answer=3, group=64, threads=2)


def test_rows_by_hand():
  ours = [dict(prompt_per_s=p, answer_per_s=a, bytes=10**8, text='one two')
          for p, a in ((100, 50), (120, 40), (80, 60))]  # fmt: skip
  peer = [dict(prompt_per_s=50, answer_per_s=a, text='one too') for a in (25, 40, 60)]
  read = [dict(bytes_per_s=10**10)] * 3
  (row,) = chatting.compare({'read': read, 'INT4': ours, 'llama.cpp': peer}, SETTINGS)
  assert (row['prompt_per_s'], row['answer_per_s_low'], row['answer_per_s_high']) == (100, 40, 60)
  assert (row['answer_ratio'], row['answer_ratio_low'], row['answer_ratio_high']) == (1, 1, 2)
  assert row['prompt_ratio'] == 2 and row['peer_answer_per_s'] == 40
  assert row['of_read'] == 0.5 and row['read_gb_per_s'] == 10  # 50 tokens of 0.1 of 10 GB
  assert row['alike'] == len('one t')
  (cells,) = chatting.table([row], SETTINGS).rows
  assert cells[2:5] == ('50.0 (40.0 to 60.0)', '100', '50%')


def test_kinds_take_turns_and_the_first_round_is_left_out():
  asked = []

  def ask(kind):
    asked.append(kind)
    return dict(at=len(asked))

  found = chatting.measured(dict.fromkeys(('read', 'INT4'), ask), 2, Session())
  assert asked == ['read', 'INT4', 'INT4', 'read', 'read', 'INT4']
  assert found == {'read': [dict(at=4), dict(at=5)], 'INT4': [dict(at=3), dict(at=6)]}


@pytest.mark.parametrize(
  'settings, says',
  [
    (dict(kinds=('INT5',)), "'INT5' is not one of"),
    (dict(repeats=0), 'repeats=0 must be above 0'),
    (dict(answer=1), 'answer=1 must be above 1'),
  ],
)
def test_wrong_settings_are_refused(settings, says):
  with pytest.raises(UsageError, match=says):
    chatting.chatting(**{**SETTINGS, 'repeats': 1, **settings})


@pytest.mark.slow
@pytest.mark.skipif(not native.ready(), reason='no C++ compiler')
def test_the_whole_of_it(launch, decoder, tmp_path):
  out = tmp_path / 'rows.jsonl'
  how = '--config.chatting.model=tiny', f'--data_dir={decoder}', f'--out={out}'
  result = launch('--config=configs/bench/chatting.py:quick', *how, module='launch.bench')
  assert result.code == 0, result.err
  _, row = map(json.loads, out.read_text().splitlines())
  assert row['product'] == 'INT4' and row['answer_per_s'] > 0 and 'peer' not in row
