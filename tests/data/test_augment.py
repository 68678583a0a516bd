"""Augmented images are the images, flipped and moved."""

import jax
import numpy as np
import pytest

from reduction import data
from reduction.data.augment import JITTER, PAD, flip_and_crop, jitter
from reduction.errors import UsageError


def test_every_image_is_one_of_its_flips_and_moves():
  x = np.random.default_rng(0).random((40, 6, 6, 3), np.float32) + 0.1
  got = np.asarray(flip_and_crop(jax.random.key(0), x))
  flips, moves = 0, set()
  for image, changed in zip(x, got):
    found = []
    for flipped in (False, True):
      padded = np.pad(image[:, ::-1] if flipped else image, ((PAD, PAD), (PAD, PAD), (0, 0)))
      found += [
        (flipped, i, j)
        for i in range(2 * PAD + 1) for j in range(2 * PAD + 1)
        if np.array_equal(padded[i : i + 6, j : j + 6], changed)
      ]  # fmt: skip
    assert found
    flips, moves = flips + found[0][0], moves | {found[0][1:]}
  assert 8 < flips < 32 and len(moves) > 15
  again = np.asarray(flip_and_crop(jax.random.key(0), x))
  assert np.array_equal(got, again)
  assert not np.array_equal(got, flip_and_crop(jax.random.key(1), x))


def test_jitter_moves_by_two_pixels_at_most_and_all_moves_occur():
  x = np.zeros((400, 9, 9, 1), np.float32)
  x[:, 4, 4] = 1
  places = np.argwhere(np.asarray(jitter(jax.random.key(0), x))[..., 0] == 1)[:, 1:] - 4
  assert len(places) == 400 and np.abs(places).max() == JITTER
  assert len({tuple(p) for p in places}) == (2 * JITTER + 1) ** 2


def test_an_unknown_one_is_refused_before_anything_is_read(tmp_path):
  with pytest.raises(UsageError, match="augment='flip' is not flip_and_crop"):
    data.cifar10(data_dir=tmp_path, augment='flip')
