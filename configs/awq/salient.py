"""Why AWQ scales: channels kept in float, and channels scaled up (Lin et al. 2024, tables 1 and 2).

Expected there (OPT-6.7B in 3 bits, groups of 128, WikiText-2 10.86 before, 23.54 rounded): with 1 %
of the channels in FP16, 11.39 where inputs are largest, 22.37 where weights are, 24.23 at random;
with that 1 % times s = 1, 1.25, 1.5, 2, 4 before rounding 23.54, 12.87, 12.48, 11.92, 12.36, and
0, 2.8, 4.4, 8.2, 21.2 % of the groups with another step.

    python -m launch.run --config=configs/awq/salient.py:stories --workdir=runs/salient-stories
    python -m launch.sweep --config=configs/awq/salient.py --workdir=runs/salient --run

By default SmolLM2-135M-Instruct in groups of 64, 32 passages; 'stories': stories260K in groups of
32, judged by how far its predictions move (see configs/awq/landscape.py). At least one channel of a
linear is kept or scaled: of stories260K's 64 that is 1.6 %, and 0.1 % is the same as 1 %, so that
10 % is added. Random channels are drawn three times. Three minutes of a CPU's core. 'quick': 4
passages and a few cells.
"""

from ml_collections import config_dict

from configs.awq import setting
from configs.variants import split

SHARES = dict(smollm2=(0.0, 0.001, 0.01, 0.03), stories=(0.0, 0.01, 0.03, 0.1))
SCALES = (1.0, 1.25, 1.5, 2.0, 4.0)
KEPT = {  # table 1, OPT-6.7B
  'by activation': (23.54, 11.58, 11.39, 11.36),
  'by weight': (23.54, 23.41, 22.37, 22.45),
  'at random': (23.54, 23.54, 24.23, 24.22),
}
SCALED = {  # table 2, OPT-6.7B
  'perplexity': (23.54, 12.87, 12.48, 11.92, 12.36),
  'groups whose step changed (%)': (0.0, 2.8, 4.4, 8.2, 21.2),
  'steps, times as large': (1, 1.005, 1.013, 1.038, 1.213),
}


def get_config(variant: str = ''):
  """variant: '' or 'stories', and 'quick', joined by a comma."""
  variants = split(variant, ('stories', 'quick'))
  name, quick = setting.model(variants), 'quick' in variants
  c = config_dict.ConfigDict()
  c.title = f'Channels that matter: {setting.TITLES[name]} in 3 bits'
  c.seeds = (0,)
  c.model = dict(path=setting.MODELS[name]['path'])
  c.data = setting.text(name, dict(smollm2=32, stories=64)[name], quick=quick)
  cells = dict(stage='salient', bits=3, group=setting.MODELS[name]['group'])
  shares, draws = SHARES[name], (0, 1, 2)
  compared = dict(stage='compare')
  parts = dict(
    kept=dict(
      compared,
      baseline=dict(kept=0.0),
      methods={by: dict(cells, by=by) for by in ('activation', 'weight')},
      grid=dict(kept=shares[:2] if quick else shares),
    ),
    random=dict(
      compared,
      methods=dict(random=dict(cells, by='random')),
      grid=dict(kept=shares[1:2] if quick else shares[1:], draw=draws[:1] if quick else draws),
    ),
    scaled=dict(
      compared,
      baseline=dict(scaled=1.0),
      methods=dict(activation=dict(cells, kept=0.01)),
      grid=dict(scaled=SCALES[::3] if quick else SCALES),
    ),
  )
  c.stages = tuple(parts)
  for part, settings in parts.items():
    c[part] = settings
  c.tables = tables(shares, 'divergence' if name == 'stories' else 'perplexity')
  return c


def tables(shares: tuple, measure: str):
  """Tables 1 and 2, the paper's columns beside."""
  nets, column = ('float', 'activation', 'weight', 'random'), 'paper, OPT-6.7B: {}'
  labels = [f'{100 * share:.{1 if share >= 0.00995 else 2}f} %' for share in (0, 0.001, 0.01, 0.03)]
  of = lambda heading, lines, values: (column.format(heading), tuple(zip(lines, map(str, values))))
  times = [f'times {scale:g}' for scale in SCALES]
  values = list(dict.fromkeys((measure, 'perplexity')))
  told = dict(note='Change: against plain rounding, 95 % interval over passages.')
  return dict(
    a_kept=setting.table(
      'A share of the channels kept in float', measure, rows='kept', columns='net',
      where=dict(stage=('kept', 'random'), kept=shares, net=nets),
      paper=tuple(of(by, labels, found) for by, found in KEPT.items()),
      note="At random: the mean of three draws [least, greatest]. The paper's are perplexities.",
    ),
    b_against=setting.table(
      'The same against plain rounding', f'{measure}_change', rows='kept', columns='net',
      where=dict(stage='kept', kept=shares[1:], net=nets[1:3]), **told,
    ),
    c_scaled=setting.table(
      '1 % of the channels, by activation, scaled up before rounding',
      (*values, f'{measure}_change', 'changed', 'growth'), rows='scaled',
      where=dict(stage='scaled', scaled=SCALES),
      paper=tuple(of(key, times, found) for key, found in SCALED.items()), **told,
    ),
  )  # fmt: skip


def sweep():
  """A line for each table and share; what lacks in a line is in another."""
  for share in SHARES['smollm2'][1:]:
    yield {'kept.grid.kept': (0.0, share), 'random.grid.kept': (share,),
           'scaled.grid.scaled': SCALES[:1]}  # fmt: skip
  yield {'kept.grid.kept': (0.0,), 'random.grid.draw': (0,), 'scaled.grid.scaled': SCALES}
