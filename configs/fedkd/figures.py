"""Figures 4 to 7 of FedKD in small, on 8 x 8 digits: clients, thresholds, spectra, ranks.

Wu et al., Nature Communications 13:2032 (2022), whose figures are of MIND and SMM4H. Expected of
it: with more clients FedAvg of the student loses, FedKD gains; below T = 0.95 scores fall, above
0.98 only bytes rise; early updates need few singular values, late ones more. The same data are
shared out to 2, 4, 8 and 16 clients. Thresholds are constant but the last, the paper's.

    python -m launch.run --config=configs/fedkd/figures.py --workdir=runs/fedkd-figures

About two minutes on two idle cores. Variants: 'quick' is FedKD of two clients, three rounds.
"""

from ml_collections import config_dict

from configs.claims import lines
from configs.fedkd import setting
from configs.fedkd.digits import PAIRS, STUDENT, TEACHER
from configs.variants import split

CLIENTS = 2, 4, 8, 16
ENERGIES = 0.8, 0.9, 0.95, 0.98, 0.99
ROUNDS, SHOWN = 20, 32  # singular values


def get_config(variant: str = ''):
  """variant: '' or 'quick'."""
  quick = bool(split(variant, ('quick',)))
  c = config_dict.ConfigDict()
  c.title = 'FedKD on digits: clients, thresholds, spectra'
  c.seeds = (0,) if quick else tuple(range(10))
  c.data = dict(name='digits')
  c.model = TEACHER
  parts = {}
  for clients in CLIENTS[:1] if quick else CLIENTS:
    given = setting.federation(rounds=3 if quick else ROUNDS, batch=32, epochs=2, clients=clients)
    all_of = setting.methods(given, TEACHER, STUDENT, PAIRS, dict(name='adam', learning_rate=2e-3))
    for name in ('fedkd',) if quick else ('fedavg', 'fedkd'):
      parts[f'{name}_{clients}'] = all_of[name]
    if clients == 4:
      parts |= thresholds(all_of['fedkd'])
  shown = 'fedkd_2' if quick else 'fedkd_4'
  federation = dict(parts[shown]['federation'], spectra=SHOWN)
  parts[shown] = dict(parts[shown], federation=federation)
  c.stages = tuple(parts)
  for name, part in parts.items():
    c[name] = part
  if not quick:
    c.paper = paper()
  c.tables = tables()
  c.figures = figures(shown)
  return c


def thresholds(kd: dict) -> dict:
  """Name -> FedKD whose updates keep a constant share of their energy."""
  coded = lambda energy: dict(name='low_rank', start=energy, end=energy)
  return {
    f'energy_{round(100 * energy)}': dict(
      kd, federation=dict(kd['federation'], codec=coded(energy))
    )
    for energy in ENERGIES
  }


def paper() -> dict:
  """What figures 4 and 5 say, of the student's accuracy."""
  apart = lambda at, base: dict(
    kind='federated', at=at, key='test_accuracy', how='difference', against=dict(at=base)
  )
  return lines(
    f4=('FedAvg of the student, 16 clients against 2', 'less', apart('fedavg_16', 'fedavg_2')),
    f4b=('FedKD, 16 clients against 2', '+', apart('fedkd_16', 'fedkd_2')),
    f4c=('FedKD against FedAvg, 16 clients', '+', apart('fedkd_16', 'fedavg_16')),
    f5=('T = 0.8 against 0.95', 'less', apart('energy_80', 'energy_95')),
    f5b=('T = 0.9 against 0.95', 'less', apart('energy_90', 'energy_95')),
    f5c=('T = 0.99 against 0.95', 'none', apart('energy_99', 'energy_95')),
  )


NAMES = {
  **{f'fedavg_{n}': f'FedAvg, {n} clients' for n in CLIENTS},
  **{f'fedkd_{n}': f'FedKD, {n} clients' for n in CLIENTS},
  **{f'energy_{round(100 * e)}': f'T = {e}' for e in ENERGIES},
}  # fmt: skip


def tables() -> dict:
  """Scores and bytes by number of clients and by threshold."""
  shared = dict(
    kind='federated', rows='stage', values=('test_accuracy', *setting.BESIDE),
    names=dict(stage=dict(NAMES, fedkd_4='FedKD, 4 clients, T = 0.95 to 0.98')),
  )  # fmt: skip
  clients = tuple(name for name in NAMES if 'energy' not in name)
  energies = *(name for name in NAMES if 'energy' in name), 'fedkd_4'
  kinds = tuple(name for name in NAMES if name.startswith('fedkd'))
  sent = dict(
    title='Bytes of updates, T = 0.95 to 0.98', kind='sent', rows=('stage', 'tensor'),
    where=dict(stage=kinds), values=('dense_bytes', 'up_bytes', 'down_bytes'),
    names=dict(stage=NAMES, dense_bytes='whole, once'), note='Vectors are never factored.',
  )  # fmt: skip
  ranks = dict(
    title='Ranks by round, T = 0.95 to 0.98 (figure 7)', kind='rank', rows=('stage', 'tensor'),
    columns='step', values='rank', where=dict(stage=kinds),
    names=dict(stage=NAMES, step='round {}'), note='Of 32 at most, means over clients.',
  )  # fmt: skip
  spectra = dict(
    title='Energy that the largest singular values hold (figure 6)', kind='spectrum',
    rows=('stage', 'matrix', 'step'), columns='index', values='held',
    where=dict(index=(1, 2, 4, 8, 16), stage=('fedkd_4',)),
    names=dict(stage=NAMES, index='the first {}', step='round {}'),
    note='Of clients\' updates, means; four clients.',
  )  # fmt: skip
  return dict(
    ranks=ranks, sent=sent, spectra=spectra,
    clients=dict(shared, title='Number of clients (figure 4)', where=dict(stage=clients)),
    energies=dict(shared, title='Thresholds, 4 clients (figure 5)', where=dict(stage=energies)),
  )


def figures(shown: str) -> dict:
  """Singular values in the first and in the last round, ranks by round."""
  matrices = 'fc1/kernel', 'fc2/kernel'
  at = lambda matrix: dict(where=dict(matrix=matrix, stage=shown))
  spectra = dict(
    title='Singular values of updates (figure 6)', kind='spectrum', x='index', y='share',
    lines='step', x_label='singular value', y_label='share of the largest', y_scale='log',
    y_range=(1e-3, 1.2),
    spread='none', panels={name.replace('/', '_'): at(name) for name in matrices},
  )  # fmt: skip
  ranks = dict(setting.figures(*matrices)['ranks'], where=dict(stage=(shown,)), names=NAMES)
  return dict(spectra=spectra, ranks=ranks)


def sweep():
  """One line a seed."""
  for seed in range(3):
    yield {'seeds': (seed,)}
