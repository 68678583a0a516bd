"""Clicks on titled items: MIND's files with odd rows, films in its place, examples by hand."""

import dataclasses

import numpy as np
import pytest

from reduction.data import films, mind
from reduction.data.items import Offer, behaviors, examples, news, ratings
from reduction.errors import DataError, MissingInput

NEWS = '\n'.join([
  'N1\tsports\tgolf\tthe film was good\tabs', '', 'N2\tnews\tus\ta bad plot', 'N3\tnews',
  'N1\tx\ty\ttwice',
])  # fmt: skip
BEHAVIORS = '\n'.join([
  '1\tU1\tdate\tN1 N9\tN2-1 N3-0',
  '2\tU2\tdate\t\tN1-0 N2-1 N3-1',
  '3\tU3\tdate\tN1\tN9-1 N2-0',  # what was clicked on is not known
  '4\tU4\tdate\tN1',
  '5\t\tdate\tN1\tN2-1 N3-0',
  '6\tU5\tdate\tN1\tN2-1 N3-',
  'nonsense',
])  # fmt: skip


def test_odd_rows_are_left_out_and_counted(tmp_path):
  (tmp_path / 'news.tsv').write_text(NEWS)
  (tmp_path / 'behaviors.tsv').write_bytes(BEHAVIORS.encode() + b'\n\xff\xfe\n')
  titles, numbers = news(tmp_path / 'news.tsv')
  assert titles == ['the film was good', 'a bad plot', ''] and numbers == dict(N1=0, N2=1, N3=2)
  offers, odd = behaviors(tmp_path / 'behaviors.tsv', numbers)
  assert offers == [Offer('U1', (0,), (1,), (2,)), Offer('U2', (), (1, 2), (0,))] and odd == 6


def test_an_example_is_the_newest_clicks_and_one_click_among_others():
  titles = np.arange(20, dtype=np.int32).reshape(10, 2) + 1
  offers = [Offer('a', (1, 2, 3), (4, 5), (6, 7, 8)), Offer('b', (), (9,), (0,))]
  x, y, users = examples(offers, titles, 2, 3, np.random.default_rng(0))
  assert x.shape == (3, 10) and users.tolist() == ['a', 'a', 'b']
  assert x[0, :4].tolist() == [*titles[2], *titles[3]] and not x[2, :4].any()
  shown = x[:, 4:].reshape(3, 3, 2)
  for row, click in enumerate((4, 5, 9)):
    assert shown[row, y[row]].tolist() == titles[click].tolist()
  others = {tuple(t) for t in np.delete(shown[0], y[0], 0)}
  assert others < {tuple(titles[i]) for i in (6, 7, 8)} and len(others) == 2
  assert (np.delete(shown[2], y[2], 0) == titles[0]).all()  # one was passed by, so twice


def test_films_that_were_liked_follow_each_other_in_time(texts):
  titles, offers = ratings(texts / 'ml-latest-small', 5, 0)
  assert len(titles) == 30 and all(t.endswith('(1990)') for t in titles)
  assert len(offers) == 12 * 3  # four of six liked, each but the first an offer
  mine = [offer for offer in offers if offer.user == '3']
  assert [len(o.history) for o in mine] == [1, 2, 3]
  assert mine[1].history == (*mine[0].history, *mine[0].clicked)
  assert all(not set(o.passed) & {*o.history, *o.clicked} and len(set(o.passed)) == 4 for o in mine)


def test_users_are_in_one_split_and_own_their_examples(texts):
  data = films(history=3, length=8, share=0.2, data_dir=texts)
  assert data.classes == 5 and data.train.x.shape == (24, 64)
  assert len(data.test.y) == len(data.validation.y) == 6
  longer = films(history=3, length=8, share=0.2, listed=11, data_dir=texts)
  assert longer.test.x.shape == (6, (3 + 11) * 8) and longer.test.y.max() < 5
  assert longer.train.x.shape == data.train.x.shape
  with pytest.raises(DataError, match='one shape in all splits'):  # texts that are no lists
    dataclasses.replace(longer, lists=False)
  assert sorted(np.unique(data.owners, return_counts=True)[1]) == [3] * 8


def test_mind_s_folder_becomes_examples(texts, tmp_path):
  (tmp_path / 'MIND').mkdir()
  (tmp_path / 'all-MiniLM-L6-v2').symlink_to(texts / 'all-MiniLM-L6-v2')
  (tmp_path / 'MIND/news.tsv').write_text(NEWS)
  lines = [f'{i}\tU{i // 2}\tdate\tN1 N2\tN2-1 N3-0 N1-0' for i in range(20)]
  (tmp_path / 'MIND/behaviors.tsv').write_text('\n'.join([*lines, 'nonsense']))
  data = mind(history=2, candidates=3, length=8, share=0.3, data_dir=tmp_path)
  assert data.name == 'MIND (1 odd rows left out)' and data.classes == 3
  assert data.train.x.shape == (8, 5 * 8) and len(data.test.y) == len(data.validation.y) == 6
  assert len(set(data.owners)) == 4


def test_missing_and_damaged_files_are_named(texts, tmp_path):
  with pytest.raises(MissingInput, match='MIND not found'):
    mind(data_dir=texts)
  (tmp_path / 'movies.csv').write_text('movieId,title,genres\n1,A\n')
  with pytest.raises(DataError, match=r'movies.csv:2 has 2 fields, not 3'):
    ratings(tmp_path, 5, 0)
  (tmp_path / 'movies.csv').write_text('movieId,title,genres\n1,A,B\n')
  (tmp_path / 'ratings.csv').write_text('userId,movieId,rating,time\n1,1,good,5\n')
  with pytest.raises(DataError, match=r'ratings.csv: rating 1 is no user, film.*good'):
    ratings(tmp_path, 5, 0)
  (tmp_path / 'news.tsv').write_text('\n')
  with pytest.raises(DataError, match='has no news'):
    news(tmp_path / 'news.tsv')
