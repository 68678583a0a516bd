"""Secure aggregation between processes: a round of four exchanges (Bonawitz et al. 2017).

Who takes part says its public keys; then shares of its secrets, sealed for each other; then its
update under masks; then, of each other client, the share that lifts what did not cancel. With fewer
than the threshold in any of them clients say no more and the round is void. The server learns the
sum, who took part and how many examples each has. It is held to do as written, clients to say what
is so: keys carry no signature but the network's, and a lie in one masked update cannot be seen. Who
is lost after its masked update is in the sum all the same; what it keeps for itself is then still
that of the round before.
"""

import itertools
import secrets

import jax
import numpy as np

from reduction.errors import DataError
from reduction.federate import intake, keys, secure
from reduction.federate.codecs.codec import FLOAT
from reduction.federate.codecs.dense import dense
from reduction.federate.message import pack
from reduction.federate.network import Frame, longest, whole
from reduction.federate.seat import Seat
from reduction.federate.server import shares
from reduction.federate.table import Ask, Table, also, refused

SHARE = 68  # bytes of a share: 521 bits, in whole numbers of 32
EXCHANGES = 4
TRIED = 1_000  # choices of shares, where some are lies
PAIR, SEALED = 2 * keys.PUBLIC, keys.SEALED + 2 * SHARE  # bytes: two public keys; two shares


def says(exchange: int, like: dict, of: int) -> dict:
  """{name: shape} of what one of `of` clients says, bytes as numbers of 32 bits."""
  keys_, sealed, shares_ = (PAIR // 4,), (of, SEALED // 4), (of, SHARE // 4)
  shapes = dict(keys=keys_), dict(sealed=sealed), {}, dict(shares=shares_)
  return like if exchange == 2 else _shapes(shapes[exchange])


def hears(exchange: int, of: int) -> dict:
  """{name: shape} of what the server says to each before an exchange but the first."""
  more = {}, dict(keys=(of, PAIR // 4), share=(1,)), dict(sealed=(of, SEALED // 4)), {}
  return _shapes(dict(there=(of,), **more[exchange]))


def _shapes(shape):
  return {name: jax.ShapeDtypeStruct(size, np.float32) for name, size in shape.items()}


def about_of(head: dict) -> bytes:
  """What the seeds of a round are for."""
  return f'{head["where"]} {head["config"]} {head["round"]}'.encode()


def _number(words) -> int:
  return int.from_bytes(_bytes(words), 'little')


def _words(data: bytes) -> np.ndarray:
  return np.frombuffer(data, '<f4')


def _bytes(words) -> bytes:
  return np.ascontiguousarray(words, '<f4').tobytes()


class Veil:
  """A client's secrets in one round, and what it says of them. row: its place among `of`."""

  def __init__(self, row: int, of: int, threshold: int, about: bytes):
    self.row, self.of, self.threshold, self.about = row, of, threshold, about
    self.sealing, self.masking = secrets.token_bytes(32), secrets.token_bytes(32)
    self.own = secrets.randbits(128)
    self.others: dict[int, tuple[bytes, bytes]] = {}  # public keys by row
    self.held: dict[int, tuple[int, int]] = {}  # what they shared: of their own mask, of their key

  def keys(self) -> dict:
    """The public keys: for sealing, for masks."""
    return dict(keys=_words(keys.public(self.sealing) + keys.public(self.masking)))

  def there(self, flags, among) -> list[int]:
    """The rows that a server says are there. Raises DataError for too few and for others."""
    rows = [int(row) for row in np.flatnonzero(flags)]
    if len(rows) < self.threshold or self.row not in rows or not set(rows) <= set(among):
      raise DataError(f'{len(rows)} clients are left, I say no more below {self.threshold}')
    return rows

  def shared(self, values) -> dict:
    """Shares of my two secrets, sealed for each other client."""
    rows = self.there(values['there'], range(self.of))
    for row in rows:
      pair = _bytes(values['keys'][row])
      self.others[row] = pair[: keys.PUBLIC], pair[keys.PUBLIC :]
    own = secure.shares(self.own, self.of, self.threshold)
    key = secure.shares(int.from_bytes(self.masking, 'little'), self.of, self.threshold)
    self.held[self.row] = own[self.row][1], key[self.row][1]
    sealed = np.zeros((self.of, SEALED // 4), np.float32)
    for row in set(rows) - {self.row}:
      text = b''.join(part[row][1].to_bytes(SHARE, 'little') for part in (own, key))
      about = self._for(self.row, row)
      sealed[row] = _words(keys.sealed(self.sealing, self.others[row][0], text, about))
    return dict(sealed=sealed)

  def _for(self, one, other):
    return self.about + f' {one} {other}'.encode()

  def masked(self, values, x: np.ndarray) -> np.ndarray:
    """The vector x under the masks of all whose shares are there, whose parts for me I keep."""
    rows = self.there(values['there'], self.others)
    pairs = {}
    for row in set(rows) - {self.row}:
      sealing, masking = self.others[row]
      data, about = _bytes(values['sealed'][row]), self._for(row, self.row)
      text = keys.opened(self.sealing, sealing, data, about)
      parts = text[:SHARE], text[SHARE:]
      self.held[row] = tuple(int.from_bytes(part, 'little') for part in parts)
      pairs[row] = keys.seed(self.masking, masking, self.about)
    return secure.hidden(x, self.row, self.own, pairs)

  def lifted(self, values) -> dict:
    """Of each client one share: of its own mask where it sent, else of the key of its pairs."""
    sent = self.there(values['there'], self.held)
    told = np.zeros((self.of, SHARE // 4), np.float32)
    for row, (own, key) in self.held.items():
      told[row] = _words((own if row in sent else key).to_bytes(SHARE, 'little'))
    return dict(shares=told)


class VeiledSeat(Seat):
  """A client's side of a round whose update no one sees."""

  def __init__(self, *given):
    super().__init__(*given)
    self.exchanges = EXCHANGES

  def shapes(self, head: dict) -> dict:
    """{name: shape} of the tensors that a greeting brings."""
    heard = head['kind'] == 'heard'
    return hears(head['exchange'], head['of']) if heard else super().shapes(head)

  def most(self) -> int:
    """Bytes of the message of a greeting at most."""
    heard = [longest(hears(i, self.plan.clients)) for i in range(1, EXCHANGES)]
    return max(super().most(), *heard)

  def trained(self, carry, head, message, size: int, run) -> tuple[dict, dict]:
    """(carry, row) after a client's part of a round, of which it says its keys first."""
    carry, row = super().trained(carry, head, message, size, run)
    if self.error:
      return carry, row
    self.veil = Veil(head['row'], head['of'], self.plan.rules.secure, about_of(head))
    self.message = self.veil.keys()
    return with_bytes(carry, up=self.message), row

  def replied(self, carry, exchange: int, message) -> dict:
    """carry with what is said in an exchange but the first."""
    values = {name: parts['dense'] for name, parts in message.items()}
    try:
      self.message = self._reply(exchange, values, carry['sent'])
    except DataError as error:
      self.message, self.error = {}, str(error)
    tensors = exchange == 2  # which are counted already
    return with_bytes(carry, up={} if tensors else self.message, down=values)

  def _reply(self, exchange, values, sent):
    if exchange == 1:
      self.share = float(values['share'][0])
      if not 0 < self.share <= 1:
        raise DataError(f'the server would have my update {self.share:g} times in a mean')
      return self.veil.shared(values)
    if exchange == 3:
      return self.veil.lifted(values)
    flat = np.concatenate([np.asarray(sent[name]['dense'][0]).ravel() for name in self.like])
    secure.fixed(flat)  # the whole update, as the simulator looks at it
    return split(self.veil.masked(values, self.share * flat.astype(np.float64)), self.like)

  def said(self, carry, number: int) -> dict:
    """The message of an answer of this round."""
    del carry, number
    return whole(self.message)


def with_bytes(carry, up=(), down=()) -> dict:
  """carry with the bytes of what is said and heard besides the update."""
  size = lambda values: FLOAT * sum(np.size(x) for x in dict(values).values())
  return dict(carry, up=carry['up'] + size(up), down=carry['down'] + size(down))


def split(flat: np.ndarray, like: dict) -> dict:
  """The tensors of like, whose entries one after another are flat; integers as the floats that have
  the same bits."""
  ends = np.cumsum([int(np.prod(x.shape)) for x in like.values()])[:-1]
  parts = zip(like.items(), np.split(flat.view(np.float32), ends))
  return {name: part.reshape(x.shape) for (name, x), part in parts}


class VeiledTable(Table):
  """A round at a server that learns the sum of updates alone."""

  veiled = True

  def __init__(self, *given):
    super().__init__(*given)
    # what is settled is the mean already
    self.rules = self.plan.rules._replace(secure=0, weights='uniform', heaviest=0.0)
    self.down = np.zeros(len(self.ids), np.int64)
    self.mean: dict = {}
    self.last: set = set()  # who said all

  def expects(self, exchange: int, client: int):
    """(what decodes a client's answer, its shapes)"""
    return dense(), says(exchange, self.like, len(self.ids))

  def exchanges(self, ask: Ask) -> tuple[intake.Taken, dict, dict]:
    """(the updates that are in the mean, under their masks, nothing, the server's wire)"""
    wire, least, said = self.carry['server']['wire'], self.plan.rules.secure, []
    taken = with_keys(self.taken(0, ask(self.greetings(), self.most(0))))
    for exchange in range(1, EXCHANGES):
      said.append(taken.updates)
      if len(taken.updates) < least:
        return taken._replace(updates={}), {}, wire
      frames = self.told(exchange, said, taken.weights)
      taken = also(taken, self.taken(exchange, ask(frames, self.most(exchange)), frames))
    if len(taken.updates) < least:
      return taken._replace(updates={}), {}, wire
    try:
      self.mean = self.lifted(*said, taken.updates)
    except DataError as error:
      return refused(taken, None, str(error))._replace(updates={}), {}, wire
    self.last = set(taken.updates)
    return taken._replace(updates=said[2]), {}, wire

  def told(self, exchange: int, said: list[dict], weights: dict) -> dict[int, Frame]:
    """What each client that is left hears before an exchange."""
    there = np.array([client in said[-1] for client in self.ids])
    values = dict(there=there.astype(np.float32))
    if exchange == 1:
      self.share = self.shared_out(weights, there)
      values['keys'] = self.by_row(said[0], 'keys', PAIR)
    frames = {}
    for client in said[-1]:
      at = self.ids.index(client)
      if exchange == 1:
        values['share'] = self.share[at : at + 1]
      elif exchange == 2:
        for_me = {c: dict(sealed=one['sealed'][at]) for c, one in said[1].items()}
        values['sealed'] = self.by_row(for_me, 'sealed', SEALED)
      self.down[at] += FLOAT * sum(x.size for x in values.values())
      head = self.head(client, 'heard', exchange)
      frames[client] = head, pack(whole(values), self.letters[client])
    return frames

  def shared_out(self, weights: dict, there) -> np.ndarray:
    """The part of the mean that each update is, float32 [m]."""
    each = np.array([weights.get(client, 0.0) for client in self.ids], np.float32)
    return np.asarray(shares(each, there.astype(np.float32), self.plan.rules), np.float32)

  def by_row(self, said: dict, name: str, size: int) -> np.ndarray:
    """What clients said in the order of ids, zeros for who said nothing."""
    nothing = np.zeros(size // 4, np.float32)
    return np.stack([np.asarray(said[c][name]) if c in said else nothing for c in self.ids])

  def lifted(self, said_keys: dict, sealed: dict, updates: dict, shares_: dict) -> dict:
    """The mean of the updates, of what was said in each exchange. Raises DataError where shares do
    not give the key that a client showed."""
    row, least = self.ids.index, self.plan.rules.secure
    words = lambda values: np.concatenate([
      np.ascontiguousarray(values[name], '<f4').view('<u4').ravel() for name in self.like
    ])  # fmt: skip
    told = lambda client: [
      (row(c) + 1, _number(values['shares'][row(client)])) for c, values in shares_.items()
    ]  # fmt: skip
    own = {row(client): recovered(told(client), least, 128, client) for client in updates}
    about, gone = about_of(self.head(self.ids[0], 'heard')), {}
    for client in sealed.keys() - updates.keys():
      key = recovered(told(client), least, 256, client).to_bytes(32, 'little')
      if keys.public(key) != _bytes(said_keys[client]['keys'])[keys.PUBLIC :]:
        raise DataError(f'the shares of the key of client {client} do not fit together')
      gone[row(client)] = {
        row(c): keys.seed(key, _bytes(said_keys[c]['keys'])[keys.PUBLIC :], about) for c in updates
      }
    sum_ = secure.total({row(c): words(update) for c, update in updates.items()}, own, gone)
    mean = sum_ / self.share[[row(c) for c in updates]].sum(dtype=np.float64)
    return split(mean.astype(np.float32), self.like)

  def kept(self, fine):
    """Whose round is over for them too, of those whose update is in the mean [m]."""
    return fine & np.array([client in self.last for client in self.ids])

  def besides(self, taken: intake.Taken) -> np.ndarray:
    """Bytes up and down of each client that are of no tensor, [2, m]."""
    up = [
      sum(n for name, n in taken.counts.get(client, {}).items() if name not in self.like)
      for client in self.ids
    ]
    return np.array([up, self.down])

  def stacked(self, taken: intake.Taken, exchange: int):
    """(the mean for each client that is in it [1, m, ...], weights, who is) [1, m]."""
    del exchange
    there = np.array([client in taken.updates for client in self.ids])
    each = {
      name: np.stack([self.mean[name] if here else np.zeros(x.shape, np.float32) for here in there])
      for name, x in self.like.items()
    }
    return {n: x[None] for n, x in each.items()}, there[None].astype(np.float32), there[None]


def with_keys(taken: intake.Taken) -> intake.Taken:
  """taken without those whose public keys are none: others could not answer them."""
  for client, values in tuple(taken.updates.items()):
    pair, mine = _bytes(values['keys']), secrets.token_bytes(32)
    try:
      for at in 0, keys.PUBLIC:
        keys.seed(mine, pair[at : at + keys.PUBLIC], b'')
    except DataError as error:
      left = {c: update for c, update in taken.updates.items() if c != client}
      taken = refused(taken, client, str(error))._replace(updates=left)
  return taken


def recovered(points: list, threshold: int, bits: int, client: int) -> int:
  """A secret of so many bits, of those shares that fit together: others give 521. Raises DataError
  where TRIED choices of them do not."""
  for chosen in itertools.islice(itertools.combinations(points, threshold), TRIED):
    if (found := secure.recovered(list(chosen))) < 2**bits:
      return found
  raise DataError(f'the shares of a secret of client {client} do not fit together')
