"""Frames on a socket: the lengths of both parts, a head as JSON, a body. Standard library alone."""

import json
import socket
import struct

from reduction.errors import DataError

LENGTHS = struct.Struct('<IQ')
MOST, HEAD = 2**34, 2**20  # bytes of a body, where no one knows better, and of a head


def joined(head: dict, body: bytes = b'') -> bytes:
  """A frame as bytes."""
  text = json.dumps(head).encode()
  return LENGTHS.pack(len(text), len(body)) + text + body


def longest(body: int) -> int:
  """Bytes of a frame whose body has so many at most."""
  return LENGTHS.size + HEAD + body


def parted(data: bytes) -> tuple[dict, bytes]:
  """(head, body) of a frame. Raises DataError for bytes that are none."""
  if len(data) < LENGTHS.size:
    raise DataError(f'a frame of {len(data)} bytes')
  text, body = LENGTHS.unpack(data[: LENGTHS.size])
  if text > HEAD:
    raise DataError(f'a frame has a head of {text:,} bytes, at most {HEAD:,} are taken')
  if LENGTHS.size + text + body != len(data):
    raise DataError(f'a frame declares {text + body:,} bytes and has {len(data):,}')
  try:
    head = json.loads(data[LENGTHS.size : LENGTHS.size + text])
  except (ValueError, RecursionError) as error:
    raise DataError('the head of a frame is damaged') from error
  if not isinstance(head, dict):
    raise DataError('the head of a frame is no object')
  return head, data[LENGTHS.size + text :]


def send(to: socket.socket, head: dict, body: bytes = b''):
  """Sends a frame."""
  to.sendall(joined(head, body))


def receive(of: socket.socket, most: int = MOST) -> bytes | None:
  """The next frame, or None where the other side has closed. most: bytes of its body at most.

  Raises DataError for half a frame, and, before any of it is read, for one that declares more.
  """
  begins = _exactly(of, LENGTHS.size)
  if not begins:
    return None
  text, body = LENGTHS.unpack(begins)
  if text > HEAD or body > most:
    raise DataError(f'a frame declares {text:,} and {body:,} bytes, at most {HEAD:,} and {most:,} '
                    'are taken')  # fmt: skip
  rest = _exactly(of, text + body)
  if rest is None:
    raise DataError('a frame ends before its end')
  return begins + rest


def _exactly(of, count: int) -> bytes | None:
  """count bytes; None where none come."""
  parts = []
  while count:
    part = of.recv(min(count, 2**20))
    if not part:
      if parts:
        raise DataError('a frame ends before its end')
      return None
    parts.append(part)
    count -= len(part)
  return b''.join(parts)
