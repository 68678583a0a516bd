"""Sentences with labels, as tokens of a model's own tokenizer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from reduction.data import folders
from reduction.data.data import Data, Split
from reduction.errors import DataError, MissingInput, require
from reduction.tokenizer import load

PARTS = dict(train=('train',), validation=('dev', 'validation'), test=('test',))
FOLDERS = 'sst2', 'SST-2', 'text-classification/sst2'


def sst2(*, tokenizer: str = 'all-MiniLM-L6-v2', length: int = 64, data_dir=None) -> Data:
  """SST-2 (Socher et al. 2013): sentences of film reviews, 0 negative and 1 positive.

  Files of lines SENTENCE<TAB>LABEL, named *train.tsv, *dev.tsv and *test.tsv. The usual ones hold
  6,920 / 872 / 1,821 whole sentences; GLUE's 67 thousand phrases give other numbers. tokenizer: a
  model folder, or a name in the data directory, with tokenizer.json. length: tokens, the first and
  last special; longer sentences are cut. 0 fills up.
  """
  folder = find(data_dir)
  read, vocabulary = reader(folders.model(tokenizer, data_dir), length)
  splits = {part: _split(folder, part, names, read) for part, names in PARTS.items()}
  return Data('SST-2', **splits, classes=2, source='tsv', vocabulary=vocabulary)


def find(data_dir=None) -> Path:
  """The folder of SST-2. Raises MissingInput with the ways out."""
  files = '*train.tsv, *dev.tsv and *test.tsv'
  return folders.holding('*train.tsv', FOLDERS, data_dir, title='SST-2', files=files)


def rows(path: Path) -> tuple[list[str], np.ndarray]:
  """Sentences and labels of a file of SENTENCE<TAB>LABEL. Raises DataError naming the line."""
  texts, labels = [], []
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
  except UnicodeDecodeError as error:
    raise DataError(f'{path} is not UTF-8 text ({error.reason} at byte {error.start})') from error
  for number, line in enumerate(lines, 1):
    text, _, label = line.rpartition('\t')
    if number == 1 and label == 'label':
      continue
    if not text.strip() or label not in ('0', '1'):
      raise DataError(f'{path}:{number} is not a sentence, a tab and 0 or 1')
    texts.append(text)
    labels.append(int(label))
  return texts, np.array(labels, np.int32)


def _split(folder, part, names, read):
  found = [path for name in names for path in sorted(folder.glob(f'*{name}.tsv'))]
  if not found:
    raise MissingInput(f'no *{names[0]}.tsv in {folder}')
  texts, labels = rows(found[0])
  return Split(read(texts), labels)


def reader(folder: Path, length: int) -> tuple[Callable, int]:
  """(texts -> int32 [n, length] tokens by tokenizer.json of a model folder, how many there are).

  Raises MissingInput where it or the package `tokenizers` lacks, DataError where it is damaged or
  does not fill up with token 0.
  """
  require(length > 2, f'{length=} leaves no room between the first and the last token')
  tokenizer = _padded(folder / 'tokenizer.json')
  tokenizer.enable_truncation(length)
  tokenizer.no_padding()

  def read(texts: list[str]) -> np.ndarray:
    tokens = np.zeros((len(texts), length), np.int32)
    for row, encoded in zip(tokens, tokenizer.encode_batch(texts)):
      row[: len(encoded.ids)] = encoded.ids
    return tokens

  return read, tokenizer.get_vocab_size()


def _padded(path: Path):
  found = load(path)
  padding = found.padding['pad_id'] if found.padding else found.token_to_id('[PAD]')
  if padding not in (0, None):
    raise DataError(f'{path} fills up with token {padding}; models.bert takes 0 only')
  return found
