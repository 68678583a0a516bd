"""Rounds of federations, and what low-rank updates cost to make.

Wanted: at 64 small clients at least 20 times the rounds of Flower's simulation with the same model,
never fewer than a compiled Python loop over clients, one compiled program whatever the clients,
memory that grows little with clients that keep nothing (FedAvg's) and by their teachers and
optimizers with FedKD's; three times the loop on an accelerator ('gpu', not measured). Found:
results/federate.jsonl.

    python -m launch.bench --config=configs/bench/federate.py [--out=rows.jsonl]

The peer is `pip install -r third_party/requirements-flower.txt` in another Python, which
--peer_python names. Variants: 'gpu' runs ours there; 'quick': four clients and a small layer, no
peer.
"""

from ml_collections import config_dict

from configs.variants import split


def get_config(variant: str = ''):
  """variant: of 'gpu' and 'quick', joined by a comma."""
  chosen = split(variant, ('gpu', 'quick'))
  quick = 'quick' in chosen
  c = config_dict.ConfigDict()
  c.title = 'Federations'
  c.benches = ('federating', 'taught', 'encoding')
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
    platform='gpu' if 'gpu' in chosen else 'cpu',
  )
  c.taught = dict(
    c.federating.to_dict(), bench='federating', teacher=(8, 8) if quick else (256, 256), peers=(),
    rounds=2 if quick else 5,
  )  # fmt: skip
  c.encoding = dict(
    width=64 if quick else 768,
    inner=128 if quick else 3072,
    methods=('svd', 'gram', 'randomized'),
    energy=0.95,
    # (k^-falls, directions of randomized); those of the second keep half of the dense bytes, as
    # updates of sentences do (fedkd/ade)
    spectra=((1.0, 16),) if quick else ((1.0, 64), (0.65, 384)),
    repeats=1 if quick else 3,
  )
  return c
