"""Bytes that travel: the paper's cost columns from sizes alone, and what clients receive."""

import math

import jax
import numpy as np

from reduction.federate.codecs.codec import FLOAT, Codec, sizes

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


def received(seen, number: int, last, whole: int) -> np.ndarray:
  """Bytes [R, m] that clients receive at the start of round `number`.

  seen: int [R, m], the round after the last one that each took part in, 0 for none; last: int [R],
  bytes of the change that the round before made. Who took part in that round gets the change, all
  others, and everyone at first, the dense student and what is `announced`: whole.
  """
  current = (seen == number) & (number > 0)
  return np.where(current, np.asarray(last)[:, None], whole).astype(np.int64)


def announced(codec: Codec, wire, names, number: int) -> np.ndarray:
  """Bytes of each tensor, in the order of names, that go with a whole student in round `number`.

  wire: what the server keeps, of one replicate: of arrays or shapes.
  """
  found = sizes(jax.eval_shape(codec.public, wire)) if number else {}
  return np.array([found.get(name, 0) for name in names], np.int64)


def by_tensor(rounds, shapes: dict, clients: int, mirrored: bool) -> list[dict]:
  """What each matrix of an update takes, and all else together ('vectors'): a row each.

  rounds: of each, arrays [tensors, R] in the order of shapes: up, bytes of all clients; change,
  bytes of what came out; rank, means over clients, NaN where there is none; and [R]: current,
  whole, how many received the change before or the whole student; announced [tensors], what went
  with the latter. mirrored: all who take part receive as much as change has.
  Rows: tensor; dense_bytes, once; up_bytes and down_bytes [R], a client, all rounds; first_rank and
  last_rank [R] where there are any. A codec that sends all as one, such as a sketch, has no bytes
  of a tensor, and no rows.
  """
  rounds, total = list(rounds), {}
  if not _by_name(rounds, shapes):
    return []
  for i, (name, shape) in enumerate(shapes.items()):
    size, up = FLOAT * math.prod(shape), sum(one['up'][i] for one in rounds)
    changes = [one['change'][i] for one in rounds]
    before = changes if mirrored else [np.zeros_like(up), *changes]
    whole = changes if mirrored else [size + one['announced'][i] for one in rounds]
    down = sum(one['whole'] * w + one['current'] * b for one, w, b in zip(rounds, whole, before))
    row = dict(dense_bytes=size, up_bytes=up / clients, down_bytes=down / clients)
    first, last = rounds[0]['rank'][i], rounds[-1]['rank'][i]
    if np.isfinite([first, last]).all():
      row |= dict(first_rank=first, last_rank=last)
    if len(shape) < 2:
      old = total.get('vectors', dict.fromkeys(row, 0))
      total['vectors'] = {key: old[key] + value for key, value in row.items()}
    else:
      total[name.removeprefix('params/')] = row
  return [dict(tensor=name, **row) for name, row in total.items()]


def ranks(rounds, shapes: dict) -> list[dict]:
  """The ranks [R] of each matrix in the first round and after each quarter of all, a row each.

  rounds, shapes: as `by_tensor` takes them. Rounds (`step`, from 1) without ranks have no row.
  """
  rounds, found = list(rounds), []
  if not _by_name(rounds, shapes):
    return found
  steps = sorted({max(1, math.ceil(len(rounds) * i / 4)) for i in range(5)})
  for i, name in enumerate(shapes):
    for step in steps:
      rank = rounds[step - 1]['rank'][i]
      if np.isfinite(rank).all():
        found.append(dict(tensor=name.removeprefix('params/'), step=step, rank=rank))
  return found


def _by_name(rounds: list, shapes: dict) -> bool:
  """Whether rounds tell tensors apart, which a codec that sends all as one does not."""
  return bool(rounds) and len(rounds[0]['up']) == len(shapes)
