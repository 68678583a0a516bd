"""Running text as passages of tokens: what a language model is calibrated and measured on."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reduction.data import folders
from reduction.data.data import Split
from reduction.errors import DataError, MissingInput, require

BYTES = 4  # of a token, about
# name -> its file in the data directory
KNOWN = {
  'wikitext-2': 'wikitext-2/wikitext-2-v1.valid.txt',
  'tinyshakespeare': 'tinyshakespeare/input.txt',
}


@dataclasses.dataclass(frozen=True, eq=False)
class Passages:
  """Text ready for a language model.

  name: as tables print it. train: what calibrates; test: what measures: Splits of x int32
  [n, length], tokens 0 .. vocabulary - 1, and y int32 [n, length - 1], the token after each but the
  last. validation is empty. source: the files.
  """

  name: str
  train: Split
  test: Split
  vocabulary: int
  source: str
  classes: int = 0
  clips: None = None
  augment: None = None

  @property
  def validation(self) -> Split:
    """No passages: nothing is chosen by them."""
    return Split(self.train.x[:0], self.train.y[:0])

  def splits(self) -> dict[str, Split]:
    """The splits by name: a tree that `jax.device_put` takes."""
    return dict(train=self.train, validation=self.validation, test=self.test)


def passages(
  *,
  calibration: str = 'tinyshakespeare',
  test: str = 'wikitext-2',
  examples: int = 128,
  length: int = 512,
  test_length: int | None = None,
  test_passages: int | None = None,
  encode: Callable | None = None,
  vocabulary: int = 0,
  data_dir=None,
) -> Passages:
  """Texts cut into passages of one length, whatever ends where; what remains is left out.

  calibration, test: 'wikitext-2' (its tokenized validation split), 'tinyshakespeare', or the path
  of a text file. examples: passages of `length` tokens to calibrate on, spread evenly over the
  text. test_length: tokens of a test passage, `length` if None; test_passages: the first so many,
  None for all. encode: text -> tokens below vocabulary, of the model's own tokenizer.
  Raises MissingInput for a text that is not there, DataError for one that is too short or has
  other tokens.
  """
  require(encode is not None, 'data.passages is for language models: config.model.path names one')
  _check(examples, length, test_length or length)
  read = lambda text, size: _cut(_find(text, data_dir), encode, size, vocabulary)
  found, path = read(calibration, length)
  if len(found) < examples:
    raise DataError(
      f'{path} has {len(found)} passages of {length} tokens, {examples=} are needed; give a longer '
      'text or fewer examples'
    )
  chosen = found[np.arange(examples) * len(found) // examples]
  held, test_path = read(test, test_length or length)
  name = f'{test_path.stem} ({len(held[:test_passages]):,} passages of {held.shape[1]} tokens)'
  return Passages(
    name, _split(chosen), _split(held[:test_passages]), vocabulary, f'{path.name}, {test_path.name}'
  )


def planned(
  *, test: str, examples: int, length: int, test_length: int | None, test_passages: int | None,
  data_dir=None, **rest,
) -> tuple[tuple[int, int], tuple[int, int]]:  # fmt: skip
  """The shapes of what `passages` gives for its arguments, (train, test), before a text is read.

  Of all passages of a test text the number is a guess, a token of BYTES; 0 where it is not there.
  """
  del rest
  size = test_length or length
  _check(examples, length, size)
  if test_passages is None:
    try:
      test_passages = _find(test, data_dir).stat().st_size // (BYTES * size)
    except MissingInput:
      test_passages = 0
  return (examples, length), (test_passages, size)


def _check(examples, length, test_length):
  for name, value in dict(examples=examples, length=length, test_length=test_length).items():
    require(value > (name != 'examples'), f'{name}={value} is too few')


def _find(text: str, data_dir) -> Path:
  root = folders.data_dir(data_dir)
  places = [Path(text).expanduser()] + ([root / KNOWN.get(text, text)] if root else [])
  for place in places:
    if place.is_file():
      return place
  raise MissingInput(
    f'no text {text!r} in {", ".join(map(str, places))}; give the path of a text file, or name the '
    'folder that holds it by --data_dir or REDUCTION_DATA'
  )


def _cut(path: Path, encode, size: int, vocabulary: int) -> tuple[np.ndarray, Path]:
  """(tokens int32 [n, size], path)"""
  try:
    text = path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise DataError(f'{path} is not UTF-8 text ({error.reason} at byte {error.start})') from error
  tokens = np.asarray(encode(text))
  if len(tokens) < size:
    raise DataError(f'{path} has {len(tokens)} tokens, but a passage is {size}; give a longer text')
  if vocabulary and not (tokens.min() >= 0 and tokens.max() < vocabulary):
    wrong = next(int(t) for t in tokens if not 0 <= t < vocabulary)
    raise DataError(
      f'{path} has token {wrong}, the model knows 0 to {vocabulary - 1}; is the tokenizer its own?'
    )
  return tokens[: len(tokens) // size * size].reshape(-1, size).astype(np.int32), path


def _split(tokens) -> Split:
  return Split(tokens, tokens[:, 1:])
