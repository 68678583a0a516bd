"""The real data sets, where this machine has them."""

import os
import pathlib

import numpy as np
import pytest

from reduction import data
from reduction.data.ade import sentences
from reduction.data.items import ratings

ROOT = pathlib.Path(os.environ.get('REDUCTION_DATA') or 'unset')
DEBIAN = pathlib.Path('/usr/share/datasets/fashion-mnist')


def where(*folders):
  there = any((ROOT / folder).is_dir() for folder in folders)
  return pytest.mark.skipif(not there, reason=f'needs {folders[0]} in REDUCTION_DATA')


def counts(found):
  y = np.concatenate([found.train.y, found.validation.y])
  return np.bincount(y).tolist(), np.bincount(found.test.y).tolist()


@where('mnist')
def test_mnist():
  found = data.mnist(data_dir=ROOT)
  assert [len(part.y) for part in (found.train, found.validation, found.test)] == [
    55_000,
    5_000,
    10_000,
  ]
  train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
  test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
  assert counts(found) == (train, test)
  pixels = found.train.x.sum(dtype=np.float64) + found.validation.x.sum(dtype=np.float64)
  assert pixels / (60_000 * 28 * 28) == pytest.approx(0.1307, abs=5e-5)  # the usual mean
  assert data.digest(found) == '8b79c5c105ee8e72'


@pytest.mark.skipif(not DEBIAN.is_dir(), reason='needs the package dataset-fashion-mnist')
def test_fashion_mnist(tmp_path):
  found = data.fashion_mnist(data_dir=tmp_path)
  assert len(found.train.y) == 55_000 and found.source == 'debian'
  assert counts(found) == ([6_000] * 10, [1_000] * 10)
  mean = (
    found.train.x.mean(dtype=np.float64) * 11 + found.validation.x.mean(dtype=np.float64)
  ) / 12
  assert mean == pytest.approx(0.2860, abs=5e-5)  # the usual mean


@where('ade-corpus-v2')
def test_the_ade_corpus_in_the_terms_of_table_1():
  """Wu et al. 2022, table 1 of SMM4H: 16,694 tweets, 1,355 positive; ours beside it."""
  texts, labels, documents = sentences(ROOT / 'ade-corpus-v2')
  assert (len(texts), labels.sum(), len(np.unique(documents))) == (20_896, 4_271, 2_972)
  words = np.mean([len(text.split()) for text in texts])
  assert (round(words, 1), round(100 * labels.mean(), 1)) == (17.8, 20.4)


@where('ml-latest-small')
def test_films_in_the_terms_of_table_1():
  """Of MIND: 1,000,000 users, 161,013 news, 24,155,470 clicks, 11.52 words a title."""
  titles, offers = ratings(ROOT / 'ml-latest-small', 5, 0)
  users, clicks = {offer.user for offer in offers}, len(offers)
  words = round(np.mean([len(title.split()) for title in titles]), 2)
  # of 671 users three liked one film alone, before which there is no history
  assert (len(titles), len(users), clicks, words) == (9_125, 668, 50_897, 4.28)


@pytest.mark.slow  # decoding takes seconds the first time
@where('cifar10-jpeg')
def test_cifar10_jpeg():
  found = data.cifar10(data_dir=ROOT)
  assert found.name == 'CIFAR-10 (JPEG)' and len(found.train.y) == 45_000
  assert counts(found) == ([5_000] * 10, [1_000] * 10)
  # lossless CIFAR-10 has the channel means 0.4914, 0.4822, 0.4465
  mean = found.train.x.mean((0, 1, 2), dtype=np.float64)  # a float32 sum of 46 million stops short
  assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
