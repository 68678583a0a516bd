"""The ADE corpus: every sentence once, documents whole, damaged files named."""

import os
import pathlib

import numpy as np
import pytest

from reduction.data import ade
from reduction.data.ade import sentences
from reduction.errors import DataError, MissingInput


def test_documents_are_in_one_split(texts):
  data = ade(length=16, data_dir=texts)
  counts = [len(split.y) for split in data.splits().values()]
  assert counts[1:] == [8, 8] and sum(counts) == 80  # two of 20 documents of four sentences
  assert data.train.x.shape[1] == 16 and data.vocabulary == 50
  assert len(data.owners) == counts[0] and set(np.bincount(data.owners - 1_000)) == {0, 4}
  other = ade(length=16, data_dir=texts, split_seed=1)
  assert set(other.owners) != set(data.owners)


def test_a_sentence_of_both_files_counts_once_and_has_an_event(tmp_path):
  (tmp_path / 'DRUG-AE.rel').write_text('7|It hurt.|hurt|3|7|it|0|2\n7|It hurt.|x|1|2|it|0|2\n')
  (tmp_path / 'ADE-NEG.txt').write_text('8 NEG It hurt.\n9 NEG All NEG was well.\n\n')
  texts, labels, documents = sentences(tmp_path)
  assert texts == ['It hurt.', 'All NEG was well.']
  assert labels.tolist() == [1, 0] and documents.tolist() == [7, 9]


@pytest.mark.parametrize(
  'rel, neg, says',
  [
    ('7|It hurt.\n', '', r'DRUG-AE.rel:1 has 2 fields, not 8'),
    ('', '8 POS It hurt.\n', r'ADE-NEG.txt:1 is not a document, NEG'),
    ('', '8 NEG Fine.\nx NEG Fine too.\n', r"ADE-NEG.txt:2 begins with 'x'"),
    ('', None, 'lacks ADE-NEG.txt'),
  ],
)
def test_damaged_files_are_named(rel, neg, says, tmp_path):
  (tmp_path / 'DRUG-AE.rel').write_text(rel)
  if neg is not None:
    (tmp_path / 'ADE-NEG.txt').write_text(neg)
  with pytest.raises(DataError, match=says):
    sentences(tmp_path)


def test_missing_files_have_a_way_out(tmp_path):
  with pytest.raises(MissingInput, match='ade-corpus-v2'):
    ade(data_dir=tmp_path)


def test_the_real_corpus_has_the_sentences_that_its_authors_count():
  folder = pathlib.Path(os.environ.get('REDUCTION_DATA') or '.') / 'ade-corpus-v2'
  if not (folder / 'DRUG-AE.rel').exists():
    pytest.skip('REDUCTION_DATA has no ade-corpus-v2')
  texts, labels, documents = sentences(folder)
  assert (labels.sum(), (labels == 0).sum()) == (4_271, 16_625)
  assert len(set(texts)) == len(texts) and len(np.unique(documents)) == 2_972
