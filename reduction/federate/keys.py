"""Keys of one round of secure aggregation: seeds that two clients share, words that only one reads.

X25519 agrees on them, HKDF makes keys of what was agreed, ChaCha20-Poly1305 seals. All of it is of
the package `cryptography`, which Flower needs too.
"""

import os

from reduction.errors import DataError, UsageError

PUBLIC = 32  # bytes of a public key
SEALED = 28  # bytes that sealing adds


def _parts():
  try:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import x25519
    from cryptography.hazmat.primitives.ciphers import aead
    from cryptography.hazmat.primitives.kdf import hkdf
  except ImportError as error:
    raise UsageError('secure aggregation over a network needs pip install cryptography') from error
  return x25519, hkdf, hashes, aead, exceptions


def public(private: bytes) -> bytes:
  """The public key of a private one, of 32 random bytes."""
  x25519, *_ = _parts()
  return x25519.X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _agreed(private, other, about: bytes, size: int) -> bytes:
  x25519, hkdf, hashes, *_ = _parts()
  try:
    secret = x25519.X25519PrivateKey.from_private_bytes(private).exchange(
      x25519.X25519PublicKey.from_public_bytes(other)
    )
  except ValueError as error:
    raise DataError('a public key of a client is none') from error
  return hkdf.HKDF(hashes.SHA256(), size, None, about).derive(secret)


def seed(private: bytes, other: bytes, about: bytes) -> int:
  """128 bits that this client and the one with the public key other have in common."""
  return int.from_bytes(_agreed(private, other, b'seed ' + about, 16), 'little')


def sealed(private: bytes, other: bytes, text: bytes, about: bytes) -> bytes:
  """text for the client with the public key other alone; about: what both know it is for."""
  *_, aead, _ = _parts()
  nonce = os.urandom(12)
  key = _agreed(private, other, b'seal', 32)
  return nonce + aead.ChaCha20Poly1305(key).encrypt(nonce, text, about)


def opened(private: bytes, other: bytes, data: bytes, about: bytes) -> bytes:
  """The text that was `sealed`. Raises DataError where it was not, or for something else."""
  *_, aead, exceptions = _parts()
  key = _agreed(private, other, b'seal', 32)
  try:
    return aead.ChaCha20Poly1305(key).decrypt(data[:12], data[12:], about)
  except exceptions.InvalidTag as error:
    raise DataError('the shares of another client were not sealed for this one') from error
