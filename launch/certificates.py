"""Keys for a federation: an authority of its own, the server's certificate, a key a client."""

import datetime
import ipaddress
import os
import pathlib

DAYS = 365


def write(folder: pathlib.Path, hosts: tuple[str, ...], clients: int):
  """folder/server (ca.pem, server.pem, server.key, 0.pub...) and folder/0... (ca.pem, key).

  hosts: names and addresses that clients call the server by. Elliptic curves: P-256 for TLS, P-384
  for clients, in OpenSSH's format, which Flower asks for. The authority's own key is thrown away.
  """
  from cryptography import x509
  from cryptography.hazmat.primitives import serialization
  from cryptography.hazmat.primitives.asymmetric import ec
  from cryptography.x509.oid import ExtendedKeyUsageOID

  ours, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
  name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
  authority = _certificate(x509, name('federation'), name('federation'), ours, ours, (
    (x509.BasicConstraints(ca=True, path_length=0), True), (_usage(x509, authority=True), True),
  ))  # fmt: skip
  known = x509.SubjectAlternativeName([_host(x509, host) for host in hosts])
  server = _certificate(x509, name(hosts[0]), name('federation'), theirs, ours, (
    (x509.BasicConstraints(ca=False, path_length=None), True), (known, False),
    (_usage(x509, authority=False), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
  ))  # fmt: skip
  pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
  public = authority.public_bytes(pem)
  _put(folder / 'server' / 'ca.pem', public)
  _put(folder / 'server' / 'server.pem', server.public_bytes(pem))
  _put(folder / 'server' / 'server.key', theirs.private_bytes(
    pem, serialization.PrivateFormat.PKCS8, plain))  # fmt: skip
  for number in range(clients):
    key = ec.generate_private_key(ec.SECP384R1())
    said = key.public_key().public_bytes(
      serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    secret = key.private_bytes(pem, serialization.PrivateFormat.OpenSSH, plain)
    _put(folder / f'{number}' / 'key', secret)
    _put(folder / f'{number}' / 'ca.pem', public)
    _put(folder / 'server' / f'{number}.pub', said)


def _certificate(x509, subject, issuer, key, signer, extensions):
  from cryptography.hazmat.primitives import hashes

  now = datetime.datetime.now(datetime.UTC)
  made = x509.CertificateBuilder(
    issuer, subject, key.public_key(), x509.random_serial_number(),
    now - datetime.timedelta(minutes=5), now + datetime.timedelta(days=DAYS),
  )  # fmt: skip
  own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
  above = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
  for extension, critical in (*extensions, (own, False), (above, False)):
    made = made.add_extension(extension, critical)
  return made.sign(signer, hashes.SHA256())


def _usage(x509, authority: bool):
  """What a key may be used for."""
  nothing = dict.fromkeys((
    'content_commitment', 'key_encipherment', 'data_encipherment', 'key_agreement', 'encipher_only',
    'decipher_only',
  ), False)  # fmt: skip
  return x509.KeyUsage(
    digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **nothing
  )


def _host(x509, host: str):
  try:
    return x509.IPAddress(ipaddress.ip_address(host))
  except ValueError:
    return x509.DNSName(host)


def _put(path: pathlib.Path, content: bytes):
  """Writes a file that only its owner may read."""
  path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
  with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 'wb') as file:
    file.write(content)
