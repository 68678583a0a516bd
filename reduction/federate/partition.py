"""How labelled data are shared out to clients.

Each factory returns split(y, owners, rng) -> a list of sorted int arrays, the examples of each
client; y: int [n], owners: int [n] or None, who made each example. No example has two clients but
by `own`, each client has at least one.
"""

from collections.abc import Callable

import numpy as np

from reduction.errors import UsageError, require

__all__ = ['dirichlet', 'iid', 'natural', 'own', 'quantity', 'shards']
TRIES = 100  # draws until every client has its least

Split = Callable[[np.ndarray, np.ndarray | None, np.random.Generator], list[np.ndarray]]


def iid(*, clients: int) -> Split:
  """Equal shares of a shuffle; sizes differ by one at most."""
  _check(clients)

  def split(y, owners, rng):
    del owners
    _enough(y, clients)
    return [np.sort(part) for part in np.array_split(rng.permutation(len(y)), clients)]

  return split


def dirichlet(*, clients: int, alpha: float, least: int = 1) -> Split:
  """Each class is shared out by proportions ~ Dirichlet(alpha): the smaller, the more skewed.

  Drawn again until each client has `least` examples. Raises UsageError where that does not happen.
  Hsu et al. 2019, 1909.06335, as most who cite it do.
  """
  _check(clients, least)
  require(alpha > 0, f'{alpha=} must be above 0')

  def draw(y, rng):
    parts = [[] for _ in range(clients)]
    for label in np.unique(y):
      chosen = rng.permutation(np.flatnonzero(y == label))
      cuts = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(chosen)
      for part, piece in zip(parts, np.split(chosen, cuts.astype(int))):
        part.append(piece)
    return [np.concatenate(part) for part in parts]

  return lambda y, owners, rng: _until(lambda: draw(y, rng), clients, least, f'{alpha=}')


def quantity(*, clients: int, alpha: float, least: int = 1) -> Split:
  """Sizes ~ Dirichlet(alpha), labels alike."""
  _check(clients, least)
  require(alpha > 0, f'{alpha=} must be above 0')

  def draw(y, rng):
    cuts = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(y)
    return np.split(rng.permutation(len(y)), cuts.astype(int))

  return lambda y, owners, rng: _until(lambda: draw(y, rng), clients, least, f'{alpha=}')


def shards(*, clients: int, each: int = 2) -> Split:
  """Examples sorted by label, cut into clients * each pieces, `each` of them to a client.

  McMahan et al. 2017, section 3: most clients see `each` classes.
  """
  _check(clients)
  require(each > 0, f'{each=} must be above 0')

  def split(y, owners, rng):
    del owners
    _enough(y, clients * each)
    by_label = rng.permutation(len(y))
    by_label = by_label[np.argsort(y[by_label], kind='stable')]
    pieces = np.array_split(by_label, clients * each)
    dealt = rng.permutation(clients * each).reshape(clients, each)
    return [np.sort(np.concatenate([pieces[i] for i in row])) for row in dealt]

  return split


def natural(*, clients: int) -> Split:
  """Owners (authors, documents, users) are dealt to clients whole, the largest first, evenly."""
  _check(clients)

  def split(y, owners, rng):
    require(owners is not None, 'the data do not say who owns an example; take another partition')
    del y
    names, inverse, counts = np.unique(owners, return_inverse=True, return_counts=True)
    require(len(names) >= clients, f'{clients=}, but the data have {len(names)} owners')
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order], kind='stable')]
    held, client = np.zeros(clients, int), np.zeros(len(names), int)
    for name in order:
      client[name] = held.argmin()
      held[client[name]] += counts[name]
    return [np.flatnonzero(client[inverse] == i) for i in range(clients)]

  return split


def own(*, clients: int) -> Split:
  """All that is there is each client's own: for networks, where every party has data of its own."""
  _check(clients)
  return lambda y, owners, rng: [np.arange(len(y))] * clients


def _check(clients, least=1):
  require(clients > 0, f'{clients=} must be above 0')
  require(least > 0, f'{least=} must be above 0')


def _enough(y, parts):
  require(len(y) >= parts, f'{len(y)} examples cannot be shared out in {parts} parts')


def _until(draw, clients, least, how):
  for _ in range(TRIES):
    parts = draw()
    if min(map(len, parts)) >= least:
      return [np.sort(part) for part in parts]
  raise UsageError(
    f'in {TRIES} draws with {how} some of {clients} clients had fewer than {least} examples; '
    'take fewer clients or a larger alpha'
  )
