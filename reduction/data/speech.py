"""Spoken digits as an acoustic model sees them: frames of filterbanks with their HMM states.

A folder holds the recordings, 16-bit mono WAV named DIGIT_SPEAKER_NUMBER.wav, loose, in
`recordings/` or in `recordings.zip`, and a table of alignments, *align*.tsv:

    0_george_0.wav<TAB>SIL|96:0:1,97:1:1 Z|5014:21:2 ...      PHONE|STATE:FIRST:COUNT,...
    0_george_1.wav<TAB>FAILED

Frames are 10 ms apart; the first and last PADDING of them lie in silence that was put around.
"""

import io
import re
import wave
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.fft

from reduction.data import folders
from reduction.data.data import Clips, Data, Split
from reduction.errors import DataError, MissingInput, require

FOLDERS = ('fsdd', 'free-spoken-digit-dataset')
RATE = 8_000  # samples a second
MOST = 16 * 2**20  # bytes of a recording, a quarter of an hour
PADDING = 20  # frames of silence on each side of a recording, 0.2 s
NAME = re.compile(r'(\d)_([a-z]+)_(\d+)\.wav')
FOLDS = 3
HELD = 5  # recordings 0 to 4 of each digit and speaker are the published test split


class Recording(NamedTuple):
  """One aligned recording. bank: float32 [frames, bins]; states: int [frames], padding included."""

  word: int
  speaker: str
  number: int
  bank: np.ndarray
  states: np.ndarray


def spoken_digits(
  *, data_dir=None, fold: int = 0, before: int = 20, after: int = 5, bins: int = 40
) -> Data:
  """The Free Spoken Digit Dataset as frames: x [n, before + 1 + after, bins, 1], y the HMM state.

  Each frame comes with `before` frames of context and `after`: 26 frames of 40 mel filterbanks, of
  which the 21st is told the state of, as in Hinton, Vinyals & Dean 2015, section 4. fold: 0, 1 or
  2; two of the six speakers, in alphabetical order, are its test set; of the others, recordings 0
  to 4 of each digit are for validation. Log energies are scaled so that 99.8 % of the training
  frames lie in [0, 1], the rest cut. `clips` says which frames are of one recording. Filterbanks
  are Kaldi's, made by kaldi-native-fbank, of the extra [speech].
  """
  require(0 <= fold < FOLDS, f'{fold=} must be from 0 to {FOLDS - 1}')
  require(before >= 0 and after >= 0 and bins > 0, f'{before=}, {after=}, {bins=} are out of range')
  require(max(before, after) <= PADDING, f'{before=} and {after=} must be at most {PADDING}')
  found = recordings(find(data_dir), bins)
  parts = _parts(found, fold)
  names = sorted({int(s) for r in found for s in np.unique(r.states)})
  low, high = np.percentile(np.concatenate([r.bank for r in parts['train']]), (0.1, 99.9))
  scaled = lambda bank: np.clip((bank - low) / (high - low), 0, 1).astype(np.float32)
  splits, clips = {}, {}
  for part, inside in parts.items():
    x = [windows(scaled(r.bank), before, after) for r in inside]
    y = [np.searchsorted(names, r.states[PADDING : len(r.states) - PADDING]) for r in inside]
    splits[part] = Split(np.concatenate(x)[..., None], np.concatenate(y).astype(np.int32))
    clips[part] = Clips(np.array([len(s) for s in y]), np.array([r.word for r in inside]))
  name = f'spoken digits (fold {fold})'
  return Data(name, **splits, classes=len(names), source='fsdd', clips=clips)


def spoken_words(*, data_dir=None, fold: int = 0, side: int = 32, cepstra: bool = False) -> Data:
  """Free Spoken Digits as words: x [n, side, side, 1], time by mel filterbank; y the digit.

  A recording's log energies, without the silence put around, are `evened` and stretched to `side`
  moments of `side` bands; 0 and 1 are the 0.1 and 99.9 percentile of the training words. cepstra:
  the cosines of a moment's bands, all `side` of them, in place of the bands (MFCC; Davis and
  Mermelstein 1980); each coefficient has percentiles of its own. Speakers and recordings make the
  splits as in `spoken_digits`.
  """
  require(0 <= fold < FOLDS and side > 1, f'{fold=}, {side=}: a fold is from 0 to {FOLDS - 1}')
  parts = _parts(recordings(find(data_dir), side), fold)
  bands = lambda r: stretched(evened(r.bank[PADDING : len(r.bank) - PADDING]), side)
  moments = (lambda r: scipy.fft.dct(bands(r), norm='ortho')) if cepstra else bands
  alike = (0, 1) if cepstra else None  # axes of values that lie in one range
  low, high = np.percentile(np.stack([moments(r) for r in parts['train']]), (0.1, 99.9), alike)
  scaled = lambda r: np.clip((moments(r) - low) / (high - low), 0, 1).astype(np.float32)
  splits = {
    part: Split(np.stack([scaled(r) for r in inside])[..., None],
                np.array([r.word for r in inside], np.int32))
    for part, inside in parts.items()
  }  # fmt: skip
  return Data(f'spoken words (fold {fold})', **splits, classes=10, source='fsdd')


def evened(frames: np.ndarray) -> np.ndarray:
  """Frames [n, bins] of log energies, each band less its mean, divided by the spread of them all.

  Neither loudness nor the microphone then tells one speaker's recordings from another's.
  """
  frames = frames - frames.mean(0)
  return frames / max(frames.std(), 1e-6)


def stretched(frames: np.ndarray, count: int) -> np.ndarray:
  """Frames [n, bins] as [count, bins], linear between frames; the first and the last stay."""
  at = np.linspace(0, len(frames) - 1, count)
  below = np.minimum(at.astype(int), max(len(frames) - 2, 0))
  part = (at - below)[:, None]
  return (1 - part) * frames[below] + part * frames[np.minimum(below + 1, len(frames) - 1)]


def _parts(found: list[Recording], fold: int) -> dict[str, list[Recording]]:
  """Recordings of each split: two speakers test, of the others the first recordings validate."""
  speakers = sorted({r.speaker for r in found})
  test = set(speakers[fold::FOLDS])
  parts = dict(
    train=[r for r in found if r.speaker not in test and r.number >= HELD],
    validation=[r for r in found if r.speaker not in test and r.number < HELD],
    test=[r for r in found if r.speaker in test],
  )
  for part, inside in parts.items():
    if not inside:
      raise DataError(f'no aligned recording for the {part} split; speakers: {speakers}')
  return parts


def windows(bank: np.ndarray, before: int, after: int) -> np.ndarray:
  """[frames - 2 PADDING, before + 1 + after, bins]: each frame that is no padding, in context."""
  inside = bank[PADDING - before : len(bank) - PADDING + after]
  seen = np.lib.stride_tricks.sliding_window_view(inside, before + 1 + after, axis=0)
  return np.ascontiguousarray(np.moveaxis(seen, -1, 1))


def find(data_dir=None) -> Path:
  """The folder of the recordings. Raises MissingInput with the ways out."""
  files = 'recordings.zip and the alignments, *align*.tsv, of the Free Spoken Digit Dataset'
  return folders.holding('*align*.tsv', FOLDERS, data_dir, title='spoken digits', files=files)


def recordings(folder: Path, bins: int) -> list[Recording]:
  """Every aligned recording of a folder, by name. Raises DataError naming file and line."""
  (table, *_) = sorted(folder.glob('*align*.tsv'))
  read, found = _reader(folder), []
  for line, text in enumerate(table.read_text(encoding='utf-8').splitlines(), 1):
    name, tab, alignment = text.partition('\t')
    named = NAME.fullmatch(name)
    if not tab or not named:
      raise DataError(f'{table}:{line} is not DIGIT_SPEAKER_NUMBER.wav, a tab and an alignment')
    if alignment == 'FAILED':
      continue
    states = _states(alignment, f'{table}:{line}')
    bank = filterbank(samples(read(name), f'{name} of {folder}'), bins)
    count = min(len(states), len(bank))
    if abs(len(states) - len(bank)) > 3 or count <= 2 * PADDING:
      raise DataError(f'{table}:{line}: {len(states)} states for {len(bank)} frames of {name}')
    word, speaker, number = named.groups()
    found.append(Recording(int(word), speaker, int(number), bank[:count], states[:count]))
  return sorted(found, key=lambda r: (r.word, r.speaker, r.number))


def _states(alignment: str, where: str) -> np.ndarray:
  """'SIL|96:0:1,97:1:1 Z|5014:2:2' -> [96, 97, 5014, 5014]."""
  states = []
  for phone in alignment.split():
    for run in phone.partition('|')[2].split(','):
      fields = run.split(':')
      if len(fields) != 3 or not all(f.isdigit() for f in fields) or int(fields[1]) != len(states):
        raise DataError(f'{where}: {run!r} is not STATE:FIRST:COUNT, going on from {len(states)}')
      states += [int(fields[0])] * int(fields[2])
  return np.array(states, np.int32)


def _reader(folder: Path):
  """name -> the bytes of a recording. Raises MissingInput or DataError."""
  packed = folder / 'recordings.zip'
  archive = None
  if packed.is_file():
    try:
      archive = zipfile.ZipFile(packed)
    except zipfile.BadZipFile as error:
      raise DataError(f'{packed} is damaged ({error}); fetch it again') from error

  def read(name: str) -> bytes:
    for place in folder / name, folder / 'recordings' / name:
      if place.is_file():
        return place.read_bytes()
    try:
      if archive and (size := archive.getinfo(name).file_size) > MOST:
        raise DataError(f'{name} in {packed} would be {size:,} bytes; {MOST:,} is the most')
      return archive.read(name) if archive else _missing(name, folder)
    except KeyError:
      return _missing(name, folder)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
      raise DataError(f'{name} in {packed} is damaged ({error}); fetch it again') from error

  return read


def _missing(name, folder):
  raise MissingInput(f'{name} is neither in {folder}, its recordings/ nor its recordings.zip')


def samples(content: bytes, where: str) -> np.ndarray:
  """int16 samples of a WAV file. Raises DataError unless 16-bit mono at RATE."""
  try:
    with wave.open(io.BytesIO(content)) as file:
      kind = file.getframerate(), file.getnchannels(), file.getsampwidth()
      raw = file.readframes(file.getnframes())
  except (wave.Error, EOFError) as error:
    raise DataError(f'{where}: no WAV file ({error})') from error
  if kind != (RATE, 1, 2):
    raise DataError(f'{where}: {kind[0]} Hz, {kind[1]} channels, {8 * kind[2]} bits; need {RATE}, '
                    '1 and 16')  # fmt: skip
  return np.frombuffer(raw, np.int16)


def filterbank(sound: np.ndarray, bins: int) -> np.ndarray:
  """Log mel energies [frames, bins] of sound with PADDING frames of silence on each side."""
  try:
    import kaldi_native_fbank as kaldi
  except ModuleNotFoundError as error:
    raise MissingInput('filterbanks need kaldi-native-fbank: pip install -e .[speech]') from error
  options = kaldi.FbankOptions()
  options.frame_opts.samp_freq = RATE
  options.frame_opts.dither = 0.0
  options.mel_opts.num_bins = bins
  computer = kaldi.OnlineFbank(options)
  silence = np.zeros(PADDING * RATE // 100, np.float32)
  computer.accept_waveform(RATE, np.concatenate([silence, sound / np.float32(32_768), silence]))
  computer.input_finished()
  return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])
