"""What noise on the sum of clipped updates promises: epsilon of (epsilon, delta)-privacy."""

from reduction.errors import MissingInput, require


def epsilon(*, noise: float, clients: int, taking_part: int, rounds: int, delta: float) -> float:
  """epsilon after so many rounds, for one client's data (McMahan et al. 2018).

  noise: deviation of the noise over the length that updates are clipped to, as `server.rules` has
  it. taking_part: of the clients, a round, drawn without replacement; neighbors differ in what one
  client holds. By the Renyi accountant of dp-accounting; MissingInput where it is not installed.
  """
  require(noise > 0, f'{noise=} must be above 0')
  require(0 < taking_part <= clients, f'{taking_part=} must be from 1 to {clients=}')
  require(rounds > 0 and 0 < delta < 1, f'{rounds=} must be above 0 and {delta=} in (0, 1)')
  try:
    import dp_accounting
    from dp_accounting import rdp
  except ImportError as error:
    raise MissingInput(
      'the privacy of a federation is counted by dp-accounting: pip install reduction[privacy]'
    ) from error
  # one client replaced moves the sum by twice the length that updates are clipped to
  event = dp_accounting.GaussianDpEvent(noise / 2)
  if taking_part < clients:
    event = dp_accounting.SampledWithoutReplacementDpEvent(clients, taking_part, event)
  accountant = rdp.RdpAccountant(
    neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
  )
  accountant.compose(event, rounds)
  return float(accountant.get_epsilon(delta))
