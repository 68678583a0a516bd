"""Titled items that users clicked on: MIND, and MovieLens in its place.

An example is a user's clicks so far and a few titles offered, one of which was clicked on: tokens
of history + candidates titles one after another, and the place of the click for a label.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reduction.data import folders
from reduction.data.data import Data, Split
from reduction.data.text import reader
from reduction.errors import DataError, require

LIKED = 4.0  # stars of a film that count as a click


class Offer(NamedTuple):
  """What one user saw at a time: items by number. clicked, passed: of what was offered."""

  user: str
  history: tuple[int, ...]
  clicked: tuple[int, ...]
  passed: tuple[int, ...]


def mind(
  *, tokenizer: str = 'all-MiniLM-L6-v2', history: int = 50, candidates: int = 5, listed: int = 0,
  length: int = 24, share: float = 0.1, seed: int = 0, data_dir=None,
) -> Data:  # fmt: skip
  """MIND (Wu et al. 2020): news.tsv and behaviors.tsv of one of its folders.

  share: of the users whose offers are the test split, and of as many that are the validation split.
  candidates: one click and what was passed by; listed: as many in the test split, 0: the same. Rows
  that are not as the data set says are left out and counted in the name of the data.
  """
  folder = folders.holding(
    'behaviors.tsv', ('MIND', 'mind'), data_dir, title='MIND', files='news.tsv and behaviors.tsv'
  )
  titles, numbers = news(folder / 'news.tsv')
  offers, odd = behaviors(folder / 'behaviors.tsv', numbers)
  name = f'MIND ({odd} odd rows left out)' if odd else 'MIND'
  counts = candidates, listed or candidates
  return _data(name, titles, offers, tokenizer, history, counts, length, share, seed, data_dir)


def films(
  *, tokenizer: str = 'all-MiniLM-L6-v2', history: int = 50, candidates: int = 5, listed: int = 0,
  length: int = 24, share: float = 0.1, seed: int = 0, data_dir=None,
) -> Data:  # fmt: skip
  """MovieLens latest-small: titles for news, four stars and more for clicks, in order of time.

  What was offered beside a film are others that the user never rated. Settings: as of `mind`.
  """
  files = 'movies.csv and ratings.csv'
  folder = folders.holding(
    'ratings.csv', ('ml-latest-small',), data_dir, title='MovieLens', files=files
  )
  counts = candidates, listed or candidates
  titles, offers = ratings(folder, max(counts), seed)
  return _data(
    'MovieLens', titles, offers, tokenizer, history, counts, length, share, seed, data_dir
  )


def news(path: Path) -> tuple[list[str], dict[str, int]]:
  """(titles, news id -> its number) of MIND's news.tsv; a row without a title is an empty one."""
  titles, numbers = [], {}
  for row in _rows(path):
    if row[0] and row[0] not in numbers:
      numbers[row[0]] = len(titles)
      titles.append(row[3].strip() if len(row) > 3 else '')
  if not titles:
    raise DataError(f'{path} has no news')
  return titles, numbers


def behaviors(path: Path, numbers: dict[str, int]) -> tuple[list[Offer], int]:
  """(offers, rows left out) of MIND's behaviors.tsv.

  Left out are rows of too few fields and those in which nothing that is known was clicked on or
  nothing passed by; news that news.tsv lacks, and labels other than 0 and 1, are passed over.
  """
  offers, odd = [], 0
  for row in _rows(path):
    shown = [one.rpartition('-') for one in row[4].split()] if len(row) > 4 else []
    known = [(numbers[name], label) for name, _, label in shown if name in numbers]
    clicked, passed = (tuple(n for n, label in known if label == kind) for kind in '10')
    if not (len(row) > 4 and row[1] and clicked and passed):
      odd += 1
      continue
    history = tuple(numbers[name] for name in row[3].split() if name in numbers)
    offers.append(Offer(row[1], history, clicked, passed))
  return offers, odd


def ratings(folder: Path, candidates: int, seed: int) -> tuple[list[str], list[Offer]]:
  """(titles, offers) of movies.csv and ratings.csv: an offer for each film that was liked."""
  films_, rated, liked = {}, {}, {}
  for row in _table(folder / 'movies.csv', 3):
    films_[row[0]] = (len(films_), row[1])
  path = folder / 'ratings.csv'
  for row, (user, film, stars, time) in enumerate(_table(path, 4), 1):
    if film not in films_:
      continue
    try:
      user, stars, time = int(user), float(stars), int(time)
    except ValueError as error:
      raise DataError(f'{path}: rating {row} is no user, film, stars, time: {error}') from error
    rated.setdefault(user, set()).add(films_[film][0])
    if stars >= LIKED:
      liked.setdefault(user, []).append((time, films_[film][0]))
  rng, offers = np.random.default_rng(seed), []
  for user in sorted(liked):
    order = [film for _, film in sorted(liked[user])]
    unseen = np.setdiff1d(np.arange(len(films_)), list(rated[user]))
    for at in range(1, len(order)):
      passed = tuple(rng.choice(unseen, candidates - 1, replace=False).tolist())
      offers.append(Offer(str(user), tuple(order[:at]), (order[at],), passed))
  return [title for _, title in films_.values()], offers


def examples(offers, titles, history: int, candidates: int, rng, places: int = 0):
  """(x int32 [n, (history + candidates) * length], y int32 [n], users [n]): one for each click.

  titles: int32 [items, length]. The newest `history` clicks, the oldest first; others that were
  passed by are drawn from the offer, again where there are too few. places: the click has one of
  the first so many, 0: of all; a model does not see places, and of equal scores the later ranks
  first.
  """
  x, y, users = [], [], []
  empty = np.zeros((history, titles.shape[1]), np.int32)
  for offer in offers:
    past = offer.history[-history:]
    for click in offer.clicked:
      few = len(offer.passed) < candidates - 1
      passed = rng.choice(offer.passed, candidates - 1, replace=few)
      at = rng.integers(places or candidates)
      shown = np.insert(passed, at, click)
      before = empty.copy()
      before[: len(past)] = titles[list(past)]
      x.append(np.concatenate([before, titles[shown]]).reshape(-1))
      y.append(at)
      users.append(offer.user)
  return np.stack(x), np.array(y, np.int32), np.array(users)


def _data(name, texts, offers, tokenizer, history, counts, length, share, seed, data_dir):
  candidates, listed = counts
  told = f'{history=} must be above 0, {candidates=} and {listed=} above 1'
  require(history > 0 and min(counts) > 1, told)
  require(0 < share < 0.5, f'{share=} must lie in (0, 0.5)')
  read, vocabulary = reader(folders.model(tokenizer, data_dir), length)
  titles, rng = read(texts), np.random.default_rng(seed)
  users = rng.permutation(sorted({offer.user for offer in offers}))
  count = max(1, round(share * len(users)))
  parts = dict(test=users[:count], validation=users[count : 2 * count], train=users[2 * count :])
  splits = {}
  for part, chosen in parts.items():
    mine = set(chosen)
    some = [offer for offer in offers if offer.user in mine]
    if not some:
      raise DataError(f'{name} has too few users, {len(users)}, for three splits')
    many = listed if part == 'test' else candidates
    splits[part] = examples(some, titles, history, many, rng, min(counts))
  owners = splits['train'][2]
  splits = {part: Split(x, y) for part, (x, y, _) in splits.items()}
  return Data(name, **splits, classes=candidates, source='tsv', vocabulary=vocabulary,
              owners=owners, lists=True)  # fmt: skip


def _rows(path: Path):
  try:
    text = path.read_text(encoding='utf-8', errors='replace')
  except FileNotFoundError as error:
    raise DataError(f'{path.parent} lacks {path.name}') from error
  return (line.split('\t') for line in text.split('\n') if line.strip())


def _table(path: Path, fields: int):
  """Rows of a CSV file below its heading. Raises DataError naming a line of too few fields."""
  try:
    with open(path, encoding='utf-8', newline='') as file:
      lines = csv.reader(file)
      next(lines, None)
      for row in lines:
        if len(row) < fields:
          raise DataError(f'{path}:{lines.line_num} has {len(row)} fields, not {fields}')
        yield row[:fields]
  except FileNotFoundError as error:
    raise DataError(f'{path.parent} lacks {path.name}') from error
