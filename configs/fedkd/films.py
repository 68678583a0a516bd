"""FedKD for recommendation: users' clicks stay with clients, who share a small model of titles.

Wu et al. 2022, table 2 (MIND; UniLM of 12 layers, 4 clients). Expected, AUC and GB a client: UniLM
by FedAvg 70.9 at 2.05; FedKD with four layers 71.0 at 0.19, with two 70.5 at 0.11. By default the
films of MovieLens latest-small stand in for news (9,125 titles, 668 users who clicked), with models
that start at random, so numbers do not compare.

    python -m launch.run --config=configs/fedkd/films.py --workdir=runs/fedkd-films
    python -m launch.run --config=configs/fedkd/films.py:mind --workdir=runs/fedkd-mind

Users are dealt to clients whole. AUC, MRR and nDCG are over lists of one click and 19 others, which
for films are any that the user never rated (MIND's are what was shown; training has four others).
Not run in full: it takes hours on two cores. Variants: 'mind' reads news.tsv and behaviors.tsv in
MIND/ of the data directory; 'small', for a CPU: the last ten films that a user saw, five rounds of
a tenth of each client's lists; 'quick' is FedKD alone, one layer of 32 and two rounds.
"""

from ml_collections import config_dict

from configs.fedkd import setting
from configs.variants import split

TOKENIZER = 'all-MiniLM-L6-v2'
HISTORY, LENGTH, LISTED = 20, 16, 20


def get_config(variant: str = ''):
  """variant: '' or 'mind', and 'small' or 'quick', joined by a comma."""
  chosen = split(variant, ('mind', 'small', 'quick'))
  quick, reduced = 'quick' in chosen, 'small' in chosen
  c = config_dict.ConfigDict()
  history, length = (3, 8) if quick else (HISTORY // 2 if reduced else HISTORY, LENGTH)
  c.title = 'FedKD for recommendation: ' + ('MIND' if 'mind' in chosen else 'MovieLens')
  c.seeds = (0,)
  c.data = dict(
    name='mind' if 'mind' in chosen else 'films', tokenizer=TOKENIZER, history=history,
    length=length, listed=0 if quick else LISTED,
  )  # fmt: skip
  small = dict(
    name='recommender', layers=1, width=32 if quick else 128, heads=2, inner=64 if quick else 512,
    vocabulary=30_522, history=history, length=length,
  )  # fmt: skip
  c.model = dict(small, layers=1 if quick else 4)
  federation = dict(
    rounds=2 if quick else 5, batch=4 if quick else 32,
    epochs=0.05 if quick else 0.1 if reduced else 1,
    partition=dict(name='natural', clients=2 if quick else 4), codec=setting.DENSE,
    group=0 if quick else 1,
  )  # fmt: skip
  last = f'titles/layer{c.model.layers - 1}/states'
  parts = setting.methods(
    federation, dict(c.model.to_dict()), small,
    (dict(student='titles/layer0/states', teacher=last),), dict(name='adam', learning_rate=3e-4),
  )  # fmt: skip
  c.stages = ('fedkd',) if quick else setting.TABLE
  for name in c.stages:
    if parts[name]['stage'] == 'fedkd':
      parts[name].update(teachers=(), begins='start')
    c[name] = dict(parts[name], frozen='embeddings/(words|positions|types)')
  c.tables = setting.tables('test_auc', 'test_mrr', 'test_ndcg5', 'test_ndcg10', 'teacher_auc')
  return c


def sweep():
  """One line a seed."""
  for seed in range(3):
    yield {'seeds': (seed,)}
