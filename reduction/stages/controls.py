"""What a ticket is compared with: other first weights or another mask of the same size.

Each is a factory of a Control; the config names it with its settings: `controls=dict(
reinit=dict(draws=3), noise=dict(sigmas=(.5, 1.), levels=(7,)))`. `levels`: where it is trained,
None for all. `draws`: how many of it, each with randomness of its own.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from reduction import prune
from reduction.errors import require
from reduction.net import Net, initializer, over_replicas
from reduction.stages.trial import Start

__all__ = [
  'constant', 'early', 'frozen', 'noise', 'random', 'reinit', 'reordered', 'shuffled',
]  # fmt: skip


class Ticket(NamedTuple):
  """What a control is made from: the ticket before training, and how its mask is made.

  first: masks and the weights it starts from (those of masked places too). key: (stream, *salt) ->
  keys [R]. cut: scores -> the mask that keeps as many weights of each layer as the ticket's.
  """

  first: Net
  key: Callable
  cut: Callable
  example: object


class Control(NamedTuple):
  """levels: where it is trained, None for all. starts: Ticket -> the nets to train."""

  levels: tuple[int, ...] | None
  starts: Callable[[Ticket], Iterator[Start]]


def _control(levels, draws, starts) -> Control:
  require(draws > 0, f'{draws=} of a control must be above 0')
  return Control(levels, starts)


def reinit(*, draws: int = 1, levels: tuple[int, ...] | None = None, signs: bool = False):
  """Weights drawn anew under the ticket's mask; signs: but with the signs of the ticket's.

  Frankle & Carbin 2019, section 2; signs: Zhou et al. 2019, section 3.
  """

  def starts(ticket):
    redraw = over_replicas(initializer(ticket.first.module), (0, None))
    for draw in range(draws):
      params, stats = redraw(ticket.key('init', 1 + draw), ticket.example)
      if signs:
        params = prune.with_signs(params, ticket.first.params)
      name = 'reinit_signs' if signs else 'reinit'
      yield Start(f'{name}{draw}', name, ticket.first.replace(params=params, stats=stats))

  return _control(levels, draws, starts)


def random(*, draws: int = 1, levels: tuple[int, ...] | None = None):
  """Weights drawn anew under a random mask with the ticket's counts a layer. Appendix E."""
  shuffle = over_replicas(prune.shuffled)

  def starts(ticket):
    for draw, start in enumerate(reinit(draws=draws).starts(ticket)):
      masks = shuffle(ticket.key('mask', draw), ticket.first.masks)
      yield Start(f'random{draw}', 'random', start.first.replace(masks=masks))

  return _control(levels, draws, starts)


def shuffled(*, draws: int = 1, levels: tuple[int, ...] | None = None):
  """The ticket's own first weights, in other places of the mask. Appendix F.3."""
  shuffle = over_replicas(prune.shuffled_survivors)

  def starts(ticket):
    for draw in range(draws):
      params = shuffle(ticket.key('noise', 1, draw), ticket.first.params, ticket.first.masks)
      yield Start(f'shuffled{draw}', 'shuffled', ticket.first.replace(params=params))

  return _control(levels, draws, starts)


def noise(*, sigmas: tuple[float, ...], levels: tuple[int, ...] | None = None):
  """The ticket's first weights with noise of so many standard deviations. Appendix F.7."""
  for sigma in sigmas:
    require(sigma > 0, f'{sigma=} of the noise must be above 0')
  add = over_replicas(prune.noisy, (0, 0, None))

  def starts(ticket):
    for sigma in sigmas:
      params = add(ticket.key('noise', 0), ticket.first.params, sigma)
      name = f'noise{sigma:g}'.replace('.', '_')
      yield Start(name, f'noise {sigma:g}', ticket.first.replace(params=params))

  return _control(levels, 1, starts)


def constant(*, levels: tuple[int, ...] | None = None):
  """The signs of the ticket's first weights, times the layer's deviation. Zhou et al. 2019."""
  make = over_replicas(prune.signed_constant)

  def starts(ticket):
    first = ticket.first.replace(params=make(ticket.first.params))
    yield Start('constant', 'constant', first)

  return _control(levels, 1, starts)


def early(*, levels: tuple[int, ...] | None = None):
  """Pruned before training: the largest first weights are kept. Appendix F.4."""
  score = over_replicas(prune.magnitude)

  def starts(ticket):
    masks = ticket.cut(score(ticket.first.params))
    yield Start('early', 'early', ticket.first.replace(masks=masks))

  return _control(levels, 1, starts)


def frozen(*, levels: tuple[int, ...] | None = None):
  """Pruned weights stay at their first values instead of 0. Zhou et al. 2019, section 3."""

  def starts(ticket):
    yield Start('frozen', 'frozen', ticket.first, frozen=True)

  return _control(levels, 1, starts)


def reordered(*, draws: int = 1, levels: tuple[int, ...] | None = None, points: int = 30):
  """The ticket itself with another data order: are both in one linearly connected minimum?

  points: on the line between the two. Frankle et al. 2020, section 2.
  """
  require(points > 2, f'{points=} on a line must be above 2')

  def starts(ticket):
    for draw in range(draws):
      yield Start(f'reordered{draw}', 'reordered', ticket.first, shuffle=1 + draw, points=points)

  return _control(levels, draws, starts)
