"""Bytes that travel: the paper's cost columns from sizes alone, and what clients receive."""

import numpy as np

from reduction.federate.codecs.codec import FLOAT

LAYER = 7_087_872  # weights of a layer of BERT-base, width 768, inner 3072
HEADS = dict(
  # additive attention over tokens (768 -> 200 -> 1) and the linear layer 768 -> 64
  mind=768 * 200 + 200 + 200 + 1 + 768 * 64 + 64,
  smm4h=768 * 768 + 768,  # BERT's pooler
)
TRANSFERS = dict(mind=6, smm4h=4)  # three and two rounds, up and down


def gigabytes(task: str, layers: int) -> float:
  """GB (1e9 bytes) that a client exchanges to train a BERT of so many layers.

  task: 'mind' or 'smm4h'. The cost columns of tables 2 and 3 of Wu et al. 2022, which count every
  weight but embeddings in four bytes, once a transfer.
  """
  return FLOAT * (layers * LAYER + HEADS[task]) * TRANSFERS[task] / 1e9


def received(seen, number: int, last, dense: int) -> np.ndarray:
  """Bytes [R, m] that clients receive at the start of round `number`.

  seen: int [R, m], the round after the last one that each took part in, 0 for none; last: int [R],
  bytes of the change that the round before made. Who took part in that round gets the change, all
  others, and everyone at first, the dense student.
  """
  current = (seen == number) & (number > 0)
  return np.where(current, np.asarray(last)[:, None], dense).astype(np.int64)
