"""Two levels of a small net on real digits, without pictures: a second once it is compiled."""

from ml_collections import config_dict


def get_config():
  """What fault tests run, many times."""
  c = config_dict.ConfigDict()
  c.title = 'Lottery tickets on handwritten digits'
  c.seeds = (0,)
  c.data = dict(name='digits')
  c.model = dict(name='lenet', widths=(20,))
  c.stages = ('lottery',)
  c.lottery = dict(
    rounds=1, rates=(('out/kernel', 0.15), ('kernel', 0.3)), steps=200, batch=60, every=50,
    optimizer=dict(name='adam', learning_rate=1.2e-3), controls=dict(reinit=dict(draws=1)),
  )  # fmt: skip
  return c
