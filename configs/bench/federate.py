"""Rounds of a federation, and what low-rank updates cost to make.

Wanted: at 64 small clients at least 20 times the rounds of Flower's simulation with the same model,
never fewer than a compiled Python loop over clients, one compiled program whatever the clients,
memory that grows little with clients that keep nothing (FedAvg's). Found: results/federate.jsonl.

    python -m launch.bench --config=configs/bench/federate.py [--out=rows.jsonl]

The peer is `pip install -r third_party/requirements-flower.txt` in another Python, which
--peer_python names. 'quick': four clients and a small layer, no peer.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'Federations'
  c.benches = ('federating', 'encoding')
  c.federating = dict(
    clients=(4,) if quick else (4, 64, 1024),
    widths=(32, 32),
    examples=64,
    batch=32,
    rounds=2 if quick else 20,
    repeats=1 if quick else 3,
    peers=() if quick else ("Flower's simulation",),
    peer_most=64,
    peer_rounds=2,
  )
  c.encoding = dict(
    width=64 if quick else 768,
    inner=128 if quick else 3072,
    methods=('svd', 'gram', 'randomized'),
    energy=0.95,
    most=16 if quick else 64,
    repeats=1 if quick else 3,
  )
  return c
