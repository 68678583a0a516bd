"""A message as bytes: one flat body and a manifest, checked before anything is allocated.

b'RFED1\\n', the length of the manifest as four bytes (little endian), the manifest as JSON, the
body. The manifest: who sends (client, round, nonce, weight) and for each tensor [name, kind, rank].
Shapes are not in it: they are those of the receiver's own model. Factors U [P, K] and V [K, Q]
travel cut to their rank; whole matrices, vectors and integers follow as they are, float32. The rank
of a matrix that travels whole is what its factors would have had, 0 where none were sought.
"""

import json
import math
import struct
from typing import NamedTuple

import numpy as np

from reduction.errors import DataError

MAGIC = b'RFED1\n'
LONGEST = 2**20  # bytes of a manifest
KINDS = 'dense', 'factors', 'integers'
FIELDS = dict(client=int, round=int, nonce=str, weight=float)


class Letter(NamedTuple):
  """Who sends a message: client, the round it is for, a number used once, and its weight."""

  client: int
  round: int
  nonce: str
  weight: float


def pack(message: dict, letter: Letter, *, bits: int = 8) -> bytes:
  """A message of the codecs dense, low_rank or quantized as bytes. bits: of quantized."""
  tensors, body = [], []
  for name, parts in message.items():
    parts = {key: np.asarray(value) for key, value in parts.items()}
    if 'integers' in parts:
      tensors.append([name, 'integers', bits])
      body += [_floats(parts['scale']), _bits(parts['integers'], bits)]
    elif 'u' in parts and not parts['whole']:
      k = int(parts['rank'])
      tensors.append([name, 'factors', k])
      body += [_floats(parts['u'][:, :k]), _floats(parts['v'][:k])]
    else:
      whole = parts['u'] @ parts['v'] if 'u' in parts else parts['dense']
      tensors.append([name, 'dense', int(parts.get('rank', 0))])
      body.append(_floats(whole))
  manifest = json.dumps(dict(letter._asdict(), tensors=tensors)).encode()
  return MAGIC + struct.pack('<I', len(manifest)) + manifest + b''.join(body)


def unpack(data: bytes, like: dict) -> tuple[Letter, dict]:
  """(who sent it, the message) of bytes that anyone may have sent; like: {name: array or shape}.

  Raises DataError for anything but whole tensors of exactly the names and shapes of like: the
  declared sizes are compared with the bytes that are there before an array is made of them.
  """
  if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 4:
    raise DataError('this is no federated message')
  at = len(MAGIC) + 4
  (length,) = struct.unpack('<I', data[len(MAGIC) : at])
  if length > min(LONGEST, len(data) - at):
    raise DataError(f'a manifest of {length:,} bytes in a message of {len(data):,}')
  letter, tensors = _manifest(data[at : at + length])
  if sorted(name for name, _, _ in tensors) != sorted(like):
    raise DataError('a message has other tensors than the model')
  sizes = [_sizes(name, kind, k, tuple(like[name].shape)) for name, kind, k in tensors]
  if sum(map(sum, sizes)) != len(data) - at - length:
    raise DataError(f'a message declares {sum(map(sum, sizes)):,} bytes and has another number')
  at, message = at + length, {}
  for (name, kind, k), parts in zip(tensors, sizes):
    pieces = []
    for size in parts:
      pieces.append(data[at : at + size])
      at += size
    message[name] = _tensor(kind, k, tuple(like[name].shape), pieces)
  return letter, message


def body(data: bytes) -> int:
  """Bytes of the numbers of a message that `unpack` takes: all but its letter and manifest."""
  at = len(MAGIC) + 4
  return len(data) - at - struct.unpack('<I', data[len(MAGIC) : at])[0]


def _manifest(text: bytes) -> tuple[Letter, list]:
  try:
    found = json.loads(text)
    letter = {name: found[name] for name in FIELDS}
    if type(letter['weight']) is int:
      letter['weight'] = float(letter['weight'])
    tensors = [(name, kind, k) for name, kind, k in found['tensors']]
  except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
    raise DataError(f'the manifest of a message is damaged ({type(error).__name__})') from error
  for name, kind in FIELDS.items():
    value = letter[name]
    if type(value) is not kind:
      raise DataError(f'a message has {name}={str(value)[:40]!r}, not {kind.__name__}')
  for name, kind, k in tensors:
    if not isinstance(name, str) or kind not in KINDS or type(k) is not int:
      raise DataError('the manifest of a message names a tensor of no known kind')
  return Letter(**letter), tensors


def _sizes(name, kind, k, shape) -> list[int]:
  """Bytes of each piece of a tensor."""
  count = math.prod(shape)
  rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
  most = min(rows, columns) if len(shape) > 1 else 0
  if kind == 'dense':
    if not 0 <= k <= most:
      raise DataError(f'{name} of shape {shape} would be of rank {k}')
    return [4 * count]
  if kind == 'integers':
    if not 2 <= k <= 8:
      raise DataError(f'{name} comes in {k} bits; 2 to 8 are known')
    return [4, -(-count * k // 8)]
  if not 1 <= k <= most:
    raise DataError(f'{name} of shape {shape} comes as factors of rank {k}')
  return [4 * rows * k, 4 * k * columns]


def _tensor(kind, k, shape, pieces) -> dict:
  floats = lambda piece: np.frombuffer(piece, '<f4')
  if kind == 'dense':
    return dict(dense=floats(pieces[0]).reshape(shape), **(dict(rank=k) if k else {}))
  if kind == 'integers':
    return dict(scale=floats(pieces[0])[0], integers=_unbits(pieces[1], k, shape))
  rows = math.prod(shape[:-1])
  most = min(rows, shape[-1])  # of one shape whatever the rank: decoding compiles once
  u, v = np.zeros((rows, most), np.float32), np.zeros((most, shape[-1]), np.float32)
  u[:, :k], v[:k] = floats(pieces[0]).reshape(rows, k), floats(pieces[1]).reshape(k, shape[-1])
  return dict(u=u, v=v, rank=k, whole=False)


def _floats(x) -> bytes:
  return np.ascontiguousarray(x, '<f4').tobytes()


def _bits(integers, bits) -> bytes:
  """Integers -(2^(bits-1) - 1) .. as bits each, shifted up to be positive, the highest first."""
  raised = (integers.reshape(-1).astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
  return np.packbits(np.unpackbits(raised[:, None], axis=1)[:, 8 - bits :]).tobytes()


def _unbits(piece, bits, shape):
  count = math.prod(shape)
  each = np.unpackbits(np.frombuffer(piece, np.uint8))[: count * bits].reshape(count, bits)
  raised = np.packbits(np.pad(each, ((0, 0), (8 - bits, 0))), axis=1)[:, 0].astype(np.int16)
  return (raised - 2 ** (bits - 1)).astype(np.int8).reshape(shape)
