"""Recordings of tones with alignments, in the form of the spoken digits."""

import io
import pathlib
import wave
import zipfile

import numpy as np

from reduction.data import speech

SPEAKERS = ('ada', 'bob', 'cyd', 'dee', 'eve', 'fay')
TONES = {0: (500, 1500), 1: (1500, 500), 2: (800, 800)}  # Hz, of the two halves of a word
STATES = {500: 11, 1500: 12, 800: 13}
SILENCE = 7


def tone(hertz, frames):
  """16-bit samples of a tone."""
  t = np.arange(frames * speech.RATE // 100) / speech.RATE
  return (8_000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16)


def wav(samples, rate=speech.RATE):
  """The bytes of a WAV file."""
  buffer = io.BytesIO()
  with wave.open(buffer, 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(rate)
    file.writeframes(samples.tobytes())
  return buffer.getvalue()


def alignment(tones, half):
  """Silence, the two states of a word and silence, `half` frames each; the padding is silence."""
  runs, at = [], 0
  for state, count in (
    (SILENCE, 20 + 4), *((STATES[hertz], half) for hertz in tones), (SILENCE, 20 + 4 - 1)
  ):  # fmt: skip
    runs.append(f'X|{state}:{at}:{count}')
    at += count
  return ' '.join(runs)


def write(root: pathlib.Path):
  """Fills a data directory: three 'digits', two tones each, by six speakers, seven times."""
  (root / 'fsdd').mkdir()
  lines, rng = [], np.random.default_rng(0)
  with zipfile.ZipFile(root / 'fsdd' / 'recordings.zip', 'w') as archive:
    for word, tones in TONES.items():
      for speaker in SPEAKERS:
        for number in range(7):
          half, quiet = int(rng.integers(6, 10)), np.zeros(4 * 80, np.int16)
          sound = np.concatenate([quiet, *(tone(hertz, half) for hertz in tones), quiet])
          name = f'{word}_{speaker}_{number}.wav'
          archive.writestr(name, wav(sound))
          lines.append(f'{name}\t{alignment(tones, half)}')
  lines.append('2_zoe_0.wav\tFAILED')
  (root / 'fsdd' / 'alignments.tsv').write_text('\n'.join(lines) + '\n')
