"""Spoken digits: from recordings and alignments to frames, and from frames to words."""

import itertools
import zipfile

import numpy as np
import pytest

from reduction import data
from reduction.data import speech, words
from reduction.data.data import Clips
from reduction.errors import DataError, MissingInput, UsageError
from tests.recordings import tone, wav

pytest.importorskip('kaldi_native_fbank')
def test_each_frame_stands_in_its_context_with_the_state_it_has(spoken):
  found = data.spoken_digits(data_dir=spoken, bins=20)
  assert found.classes == 4 and found.train.x.shape[1:] == (26, 20, 1)
  assert found.train.x.min() >= 0 and found.train.x.max() <= 1
  # a tone is loudest in the same bin wherever it is, and the 21st frame of a window is its own
  loudest = found.train.x[:, 20, :, 0].argmax(1)
  y = found.train.y
  inside = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])  # a window reaches over the edge of a tone
  bins = {state: set(loudest[1:-1][inside & (y[1:-1] == state)]) for state in (1, 2, 3)}
  assert all(len(of_state) == 1 for of_state in bins.values())
  assert len(set.union(*bins.values())) == 3
  # the next frame's window is this one, moved by one
  np.testing.assert_array_equal(found.train.x[1, :-1], found.train.x[0, 1:])


def test_two_speakers_are_left_out_and_the_first_recordings_validate(spoken):
  whole = [data.spoken_digits(data_dir=spoken, bins=20, fold=fold) for fold in range(3)]
  for found in whole:
    clips = {part: len(c.words) for part, c in found.clips.items()}
    assert clips == dict(train=3 * 4 * 2, validation=3 * 4 * 5, test=3 * 2 * 7)
    for part, split in found.splits().items():
      assert found.clips[part].lengths.sum() == len(split.y)
  assert len({data.digest(found) for found in whole}) == 3


def test_a_word_is_its_recording_stretched(spoken):
  found = data.spoken_words(data_dir=spoken, side=16)
  frames = data.spoken_digits(data_dir=spoken, bins=16)
  assert found.classes == 10 and found.train.x.shape == (24, 16, 16, 1)
  for part, clips in frames.clips.items():
    np.testing.assert_array_equal(found.splits()[part].y, clips.words)
  assert found.train.x.min() == 0 and found.train.x.max() == 1
  by_hand = speech.stretched(np.array([[0.0], [3.0], [5.0]]), 5)
  np.testing.assert_allclose(by_hand[:, 0], [0, 1.5, 3, 4, 5])


def test_cepstra_are_the_cosines_of_bands_each_in_its_own_range(spoken):
  cosines = np.cos(np.pi * np.outer(np.arange(16), np.arange(16) + 0.5) / 16)
  bands = data.spoken_words(data_dir=spoken, side=16).train.x[..., 0] @ cosines.T
  found = data.spoken_words(data_dir=spoken, side=16, cepstra=True).train.x[..., 0]
  assert found.min() == 0 and found.max() == 1
  for i in range(16):  # alike but for a range, and for the few that are cut off
    assert np.corrcoef(bands[..., i].ravel(), found[..., i].ravel())[0, 1] > 0.99


def test_loudness_and_microphone_do_not_change_a_word():
  """Both add the same to all frames of a band of log energies."""
  frames = np.random.default_rng(0).normal(size=(30, 8))
  tone = np.linspace(-3, 2, 8)
  even = speech.evened(frames)
  np.testing.assert_allclose(speech.evened(frames + tone), even, atol=1e-9)
  np.testing.assert_allclose(even.mean(0), 0, atol=1e-12)
  assert even.std() == pytest.approx(1)
  assert np.isfinite(speech.evened(np.ones((4, 8)))).all()  # silence


def test_words_are_recognized_from_their_states(spoken):
  found = data.spoken_digits(data_dir=spoken, bins=20)
  models = words.learn(found.train.y, found.clips['train'], found.classes)
  clips, y = found.clips['test'], found.test.y
  sure = 10.0 * np.eye(4)[y]
  assert (words.recognize(sure, clips, models) == clips.words).all()
  # a tenth of the frames wrong: the order of the states still tells the words apart
  rng = np.random.default_rng(0)
  noisy = np.where(rng.random(len(y)) < 0.1, rng.integers(0, 4, len(y)), y)
  assert (words.recognize(3.0 * np.eye(4)[noisy], clips, models) == clips.words).mean() > 0.9
  # logits that say nothing leave what is left to chance
  blank = words.recognize(np.zeros((len(y), 4)), clips, models)
  assert (blank == clips.words).mean() < 0.7


def test_word_models_by_hand():
  # word 0: s s a a s, s a s; word 1: s b s
  states = np.array([0, 0, 1, 1, 0, 0, 1, 0, 0, 2, 0])
  clips = Clips(np.array([5, 3, 3]), np.array([0, 0, 1]))
  models = words.learn(states, clips, 4)
  at = {(int(w), int(s)): [] for w, s in zip(models.word, models.state)}
  for place, (w, s) in enumerate(zip(models.word, models.state)):
    at[int(w), int(s)].append(place)
  (before, after), (a,) = at[0, 0], at[0, 1]  # silence before a word is not that after it
  np.testing.assert_allclose(np.exp(models.first[[before, a, after]]), [1, 0, 0])
  np.testing.assert_allclose(np.exp(models.step[before, [before, a, after]]), [1 / 3, 2 / 3, 0])
  np.testing.assert_allclose(np.exp(models.step[a, [before, a, after]]), [0, 1 / 3, 2 / 3])
  np.testing.assert_allclose(np.exp(models.last[[before, a, after]]), [0, 0, 1])
  np.testing.assert_allclose(np.exp(models.prior), np.array([7, 3, 1, 0]) / 11)
  # against every path, tried one by one
  logits = np.random.default_rng(1).standard_normal((4, 4))
  (said,) = words.recognize(logits, Clips(np.array([4]), np.array([0])), models)
  assert said == best_by_trying(logits, models)


def best_by_trying(logits, models):
  """The word of the best of all paths."""
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  with np.errstate(divide='ignore', invalid='ignore'):
    likelihood = np.log(p) - models.prior
  best = (-np.inf, None)
  for path in np.ndindex(*(len(models.state),) * len(logits)):
    score = models.first[path[0]] + models.last[path[-1]]
    score += sum(models.step[a, b] for a, b in itertools.pairwise(path))
    if np.isfinite(score):
      score += sum(likelihood[i, models.state[place]] for i, place in enumerate(path))
      best = max(best, (score, int(models.word[path[0]])))
  return best[1]


def test_a_recording_too_short_for_any_word_is_not_understood():
  models = words.learn(np.array([0, 1, 0, 0, 2, 0]), Clips(np.array([3, 3]), np.array([0, 1])), 3)
  assert words.recognize(np.zeros((1, 3)), Clips(np.array([1]), np.array([0])), models) == [-1]


@pytest.fixture
def broken(spoken, tmp_path):
  """broken(change) -> a data directory whose table of alignments has changed."""

  def make(change):
    (tmp_path / 'fsdd').mkdir()
    (tmp_path / 'fsdd' / 'recordings.zip').symlink_to(spoken / 'fsdd' / 'recordings.zip')
    lines = (spoken / 'fsdd' / 'alignments.tsv').read_text().splitlines()
    (tmp_path / 'fsdd' / 'alignments.tsv').write_text('\n'.join(change(lines)) + '\n')
    return tmp_path

  return make


@pytest.mark.parametrize(
  'change, error, message',
  [
    (lambda l: ['0_ada.wav\tX|1:0:1'], DataError, 'alignments.tsv:1 is not DIGIT_SPEAKER_NUMBER'),
    (lambda l: [l[0] + ' X|5:3:2'], DataError, r":1: '5:3:2' is not STATE:FIRST:COUNT, going on"),
    (lambda l: [l[0] + ' X|5:x:2'], DataError, "'5:x:2' is not STATE"),
    (lambda l: ['0_ada_0.wav\tX|7:0:20'], DataError, ':1: 20 states for .* frames of 0_ada_0.wav'),
    (lambda l: ['0_ada_99.wav\tX|7:0:80'], MissingInput, '0_ada_99.wav is neither in'),
    (lambda l: l[:7], DataError, 'no aligned recording for the .* split'),
  ],
)
def test_what_is_wrong_is_named_with_its_line(broken, change, error, message):
  with pytest.raises(error, match=message):
    data.spoken_digits(data_dir=broken(change))


@pytest.mark.parametrize(
  'content, message',
  [(b'RIFF', 'no WAV file'), (wav(tone(500, 5), rate=16_000), '16000 Hz, 1 channels, 16 bits')],
)
def test_sound_of_another_kind_is_refused(content, message):
  with pytest.raises(DataError, match=f'0.wav of x: {message}'):
    speech.samples(content, '0.wav of x')


def test_settings_out_of_range_and_missing_data(tmp_path):
  with pytest.raises(UsageError, match='fold=3 must be from 0 to 2'):
    data.spoken_digits(data_dir=tmp_path, fold=3)
  with pytest.raises(UsageError, match='before=21 and after=5 must be at most 20'):
    data.spoken_digits(data_dir=tmp_path, before=21)
  with pytest.raises(MissingInput, match=r'spoken digits not found in .*fsdd'):
    data.spoken_digits(data_dir=tmp_path)


def test_a_damaged_archive_is_named(tmp_path):
  (tmp_path / 'fsdd').mkdir()
  (tmp_path / 'fsdd' / 'recordings.zip').write_bytes(b'PK')
  (tmp_path / 'fsdd' / 'alignments.tsv').write_text('0_ada_0.wav\tX|7:0:80\n')
  with pytest.raises(DataError, match=r'recordings\.zip is damaged'):
    data.spoken_digits(data_dir=tmp_path)


def test_a_recording_that_would_fill_the_memory_is_not_unpacked(tmp_path):
  folder = tmp_path / 'fsdd'
  folder.mkdir()
  with zipfile.ZipFile(folder / 'recordings.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('0_ada_0.wav', bytes(speech.MOST + 1))
  (folder / 'alignments.tsv').write_text('0_ada_0.wav\tX|7:0:80\n')
  with pytest.raises(DataError, match=r'0_ada_0.wav in .* would be 16,777,217 bytes; 16,777,216'):
    data.spoken_digits(data_dir=tmp_path)


def test_the_real_ones_if_they_are_there():
  try:
    folder = speech.find()
  except MissingInput as error:
    pytest.skip(str(error)[:100])
  read, table = speech._reader(folder), next(iter(folder.glob('*align*.tsv')))
  name, _, aligned = table.read_text().splitlines()[0].partition('\t')
  states = speech._states(aligned, 'here')
  bank = speech.filterbank(speech.samples(read(name), name), 40)
  assert 0 <= len(states) - len(bank) <= 2 or 0 <= len(bank) - len(states) <= 2
  spoken = bank[20 : len(states) - 20].mean() - bank[:15].mean()
  assert spoken > 3  # the padding is silent
