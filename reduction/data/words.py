"""Words from states: a hidden Markov model of each word, learned from alignments, and its Viterbi
search. A hybrid decoder (Bourlard & Morgan 1994): a net gives p(state | frame), which divided by
p(state) stands for the likelihood of the frame.
"""

import itertools
from typing import NamedTuple

import numpy as np

from reduction.data.data import Clips


class Words(NamedTuple):
  """Models of all words side by side, in log-probabilities.

  state: int [S], the acoustic state of each place; word: int [S], whose place it is. first, last:
  [S], of beginning and ending there; step: [S, S], of the place after each. prior: [states].
  """

  state: np.ndarray
  word: np.ndarray
  first: np.ndarray
  last: np.ndarray
  step: np.ndarray
  prior: np.ndarray


def learn(states: np.ndarray, clips: Clips, classes: int) -> Words:
  """Counts of aligned training frames. states: int [n]; clips: which are of one recording.

  A place of a word is a state together with whether anything but silence, the states that all words
  have, came before: the silence before a word is not the one after it. What never followed in
  training cannot follow.
  """
  of_word = {}
  for sequence, word in zip(clips.cut(states), clips.words):
    of_word.setdefault(int(word), set()).update(map(int, sequence))
  silence = set.intersection(*of_word.values())
  places, counts, firsts, lasts = {}, {}, {}, {}
  for sequence, word in zip(clips.cut(states), clips.words):
    spoken, path = False, []
    for state in sequence:
      spoken |= int(state) not in silence
      path.append(places.setdefault((int(word), int(state), spoken), len(places)))
    firsts[path[0]] = firsts.get(path[0], 0) + 1
    lasts[path[-1]] = lasts.get(path[-1], 0) + 1
    for pair in itertools.pairwise(path):
      counts[pair] = counts.get(pair, 0) + 1
  size = len(places)
  step, first, last = np.zeros((size, size)), np.zeros(size), np.zeros(size)
  for (a, b), count in counts.items():
    step[a, b] = count
  for vector, found in ((first, firsts), (last, lasts)):
    for place, count in found.items():
      vector[place] = count
  word = np.array([w for w, _, _ in places])
  left = step.sum(1) + last  # every visit of a place goes on or ends there
  prior = np.bincount(states, minlength=classes) / len(states)
  with np.errstate(divide='ignore'):
    return Words(
      state=np.array([s for _, s, _ in places]), word=word,
      first=np.log(first / np.bincount(word, first)[word]), last=np.log(last / left),
      step=np.log(step / left[:, None]), prior=np.log(prior),
    )  # fmt: skip


def recognize(logits: np.ndarray, clips: Clips, words: Words) -> np.ndarray:
  """The word [clips] of the best path through each recording, -1 where none goes through.

  logits: [n, states] of a net, frame by frame.
  """
  logits = np.asarray(logits, np.float64)
  posterior = logits - np.logaddexp.reduce(logits, 1)[:, None]
  seen = np.isfinite(words.prior)  # a state that training never had is no part of a word
  likelihood = posterior - np.where(seen, words.prior, 0.0)
  found = []
  for frames in clips.cut(likelihood[:, words.state]):
    score = words.first + frames[0]
    for frame in frames[1:]:
      score = (score[:, None] + words.step).max(0) + frame
    score = score + words.last
    best = int(score.argmax())
    found.append(words.word[best] if np.isfinite(score[best]) else -1)
  return np.array(found)
