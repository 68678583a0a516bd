"""ADE corpus v2: does a sentence of a medical case report tell of an adverse drug event?"""

import numpy as np

from reduction.data import folders
from reduction.data.data import Data, Split
from reduction.data.text import reader
from reduction.errors import DataError, require

FOLDERS = ('ade-corpus-v2', 'ADE-Corpus-V2')
FIELDS = 8  # of a line of DRUG-AE.rel: document, sentence, effect, place, drug, place


def ade(
  *, tokenizer: str = 'all-MiniLM-L6-v2', length: int = 64, share: float = 0.1, split_seed: int = 0,
  data_dir=None,
) -> Data:  # fmt: skip
  """The ADE corpus (Gurulingappa et al. 2012): 4,271 sentences with an event, 16,625 without.

  Files DRUG-AE.rel and ADE-NEG.txt. share: of the documents whose sentences are the test split, and
  of as many that are the validation split; no document is in two. owners: the document (PubMed
  number) of each training sentence. tokenizer, length: as of `text.sst2`.
  """
  require(0 < share < 0.5, f'{share=} must lie in (0, 0.5)')
  folder = folders.holding(
    'DRUG-AE.rel', FOLDERS, data_dir, title='the ADE corpus', files='DRUG-AE.rel and ADE-NEG.txt'
  )
  texts, labels, documents = sentences(folder)
  read, vocabulary = reader(folders.model(tokenizer, data_dir), length)
  x = read(texts)
  names = np.unique(documents)
  names = names[np.random.default_rng(split_seed).permutation(len(names))]
  count = max(1, round(share * len(names)))
  parts = dict(test=names[:count], validation=names[count : 2 * count], train=names[2 * count :])
  at = {part: np.flatnonzero(np.isin(documents, chosen)) for part, chosen in parts.items()}
  splits = {part: Split(x[rows], labels[rows]) for part, rows in at.items()}
  return Data('ADE corpus', **splits, classes=2, source='txt', vocabulary=vocabulary,
              owners=documents[at['train']])  # fmt: skip


def sentences(folder) -> tuple[list[str], np.ndarray, np.ndarray]:
  """(texts, labels int32 [n], documents int [n]), each sentence once, those with an event first.

  A sentence that is in both files has an event. Raises DataError naming a line that is neither
  'document|sentence|...' nor 'document NEG sentence'.
  """
  found = {}
  for line, where in _lines(folder / 'DRUG-AE.rel'):
    fields = line.split('|')
    if len(fields) != FIELDS:
      raise DataError(f'{where} has {len(fields)} fields, not {FIELDS}')
    found.setdefault(fields[1].strip(), (1, _number(fields[0], where)))
  for line, where in _lines(folder / 'ADE-NEG.txt'):
    document, separator, text = line.partition(' NEG ')
    if not separator:
      raise DataError(f'{where} is not a document, NEG and a sentence')
    found.setdefault(text.strip(), (0, _number(document, where)))
  labels, documents = (np.array(values) for values in zip(*found.values()))
  return list(found), labels.astype(np.int32), documents


def _lines(path):
  """Pairs (line, where it stands)."""
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise DataError(f'{path} is not UTF-8 text ({error.reason} at byte {error.start})') from error
  except FileNotFoundError as error:
    raise DataError(f'{path.parent} lacks {path.name}') from error
  for number, line in enumerate(text.splitlines(), 1):
    if line.strip():
      yield line, f'{path}:{number}'


def _number(text, where) -> int:
  if not text.strip().isdecimal():
    raise DataError(f'{where} begins with {text[:20]!r}, not with a PubMed number')
  return int(text)
