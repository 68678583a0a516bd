"""One panel drawn as SVG text that stands in a page and takes its colors and font from it."""

import io
import re
from typing import NamedTuple

import numpy as np

from reduction.report.intervals import is_fraction

LABELS = dict(
  kept='weights remaining (%)',
  step='training step',
  early_stop_step='early-stop step',
  early_stop_test_accuracy='test accuracy at early stop (%)',
  early_stop_train_accuracy='training accuracy at early stop (%)',
  test_accuracy='test accuracy (%)',
  train_accuracy='training accuracy (%)',
  validation_accuracy='validation accuracy (%)',
)
# Okabe & Ito's colors, told apart by color-blind readers: on white, on black
DISTINCT = (
  ('#0072b2', '#5cb8f0'), ('#d55e00', '#ff9148'), ('#009e73', '#35d0a4'),
  ('#b3558c', '#eba1cc'), ('#8a6d00', '#e5c84a'), ('#4d5b66', '#b8c4cc'),
)  # fmt: skip
ORDERED = 24  # shades of viridis on white; on black, of these, which rise in lightness as it does
ON_BLACK = ('#7a9dff', '#35bfc9', '#7bdb6a', '#ffe766')
NAMES = tuple(f'd{i}' for i in range(len(DISTINCT))) + tuple(f'o{i}' for i in range(ORDERED))
INK, GRID, CARD = '#1c2328', '#e3e7ea', '#fffffe'  # drawn so, then named for the page to set
FEW = 40  # points of a line that are all marked; of longer ones every n-th is
# marks that tell lines apart without color: Matplotlib's, and as a path in a box of 10 x 10
MARKS = (
  ('o', 'M5 1.8A3.2 3.2 0 1 1 5 8.2A3.2 3.2 0 1 1 5 1.8Z'), ('s', 'M2.2 2.2H7.8V7.8H2.2Z'),
  ('^', 'M5 1.3L8.7 7.9H1.3Z'), ('D', 'M5 1L9 5L5 9L1 5Z'), ('v', 'M5 8.7L8.7 2.1H1.3Z'),
  ('>', 'M8.7 5L2.1 1.3V8.7Z'), ('<', 'M1.3 5L7.9 1.3V8.7Z'),
)  # fmt: skip
SIZES = {1: (6.2, 3.7), 2: (5.1, 3.4), 3: (3.8, 3.1)}  # inches, by columns
STYLE = {
  'svg.fonttype': 'none', 'font.size': 10, 'text.parse_math': False, 'text.color': INK,
  'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': INK,
  'axes.labelcolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.linewidth': 0.8,
  'axes.grid': True, 'axes.grid.axis': 'y', 'grid.color': GRID, 'grid.linewidth': 0.8,
  'axes.axisbelow': True, 'axes.labelpad': 7, 'xtick.major.size': 4, 'ytick.major.size': 0,
}  # fmt: skip


class Line(NamedTuple):
  """One line: its label, the name of its color, and its points with least and greatest."""

  label: str
  color: str  # of NAMES
  mark: int  # of MARKS
  dashed: bool
  x: np.ndarray
  mean: np.ndarray
  least: np.ndarray
  most: np.ndarray


def percent(fraction: float) -> str:
  """A fraction as the paper labels levels: '100', '51.2', '7.0', '0.45'."""
  return f'{100 * fraction:.{0 if fraction > 0.9995 else 1 if fraction >= 0.00995 else 2}f}'


def columns(panels: int) -> int:
  """How many of them stand side by side."""
  return {0: 1, 1: 1, 2: 2, 4: 2}.get(panels, 3)


def svg(salt: str, panel: dict, lines: list[Line], panels: int) -> str:
  """Draws lines as the panel says, one of `panels`; salt tells its parts from theirs in a page."""

  def paint(axes):
    for i, line in enumerate(lines):
      _plot(axes, panel, line, i, len(lines))
    for name in 'x', 'y':
      _axis(axes, panel, name)
    _ticks(axes, panel, sorted({float(x) for line in lines for x in line.x}, reverse=True))

  return painted(salt, SIZES[columns(panels)], paint)


def painted(salt: str, size: tuple[float, float], paint) -> str:
  """What paint(axes) draws on so many inches, as SVG text that takes its colors from the page."""
  import matplotlib  # half a second, so only where something is drawn
  from matplotlib.backends.backend_svg import FigureCanvasSVG
  from matplotlib.figure import Figure

  with matplotlib.rc_context():
    matplotlib.rcdefaults()  # a reader's matplotlibrc changes nothing
    matplotlib.rcParams.update({**STYLE, 'svg.hashsalt': salt})
    figure = Figure(figsize=size, layout='constrained')
    FigureCanvasSVG(figure)
    paint(figure.add_subplot())
    file = io.StringIO()
    figure.savefig(file, format='svg', transparent=True, metadata={'Date': None})
  return _themed(file.getvalue())


def _plot(axes, panel, line, index, count):
  from matplotlib.transforms import ScaledTranslation

  color, spread = color_of(line.color), panel.get('spread', 'bars')
  every = 1 if len(line.x) <= FEW else len(line.x) // 10
  first = index * every // count  # bars of several lines stand side by side,
  aside = (index - (count - 1) / 2) * min(2.5, 6 / count) if every == 1 else 0  # by some points
  moved = ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
  style = dict(
    color=color, linewidth=1.7, linestyle=(0, (4, 2.2)) if line.dashed else '-', zorder=3,
    marker=MARKS[line.mark][0], markersize=4.2, markeredgewidth=1.2,
    markerfacecolor=CARD if line.dashed else color, markevery=(first, every),
  )  # fmt: skip
  if spread == 'bars' and np.any(line.most > line.least):
    # a mean of equal values may lie an ulp beside them
    error = np.maximum([line.mean - line.least, line.most - line.mean], 0)
    drawn = axes.errorbar(
      line.x, line.mean, error, errorevery=(first, every), capsize=2.2, elinewidth=0.9,
      capthick=0.9, **style,
    )  # fmt: skip
    drawn = [drawn[0], *drawn[1], *drawn[2]]
  else:
    drawn = axes.plot(line.x, line.mean, **style)
  for artist in drawn:
    artist.set_transform(artist.get_transform() + moved)
  if spread == 'band':
    axes.fill_between(line.x, line.least, line.most, color=color, alpha=0.18, linewidth=0)


def _axis(axes, panel, name):
  from matplotlib import ticker

  key, log = panel[name], panel.get(f'{name}_scale') == 'log'
  axis = getattr(axes, f'{name}axis')
  axes.set(**{f'{name}scale': 'log' if log else 'linear'})
  axes.set(**{f'{name}label': panel.get(f'{name}_label', LABELS.get(key, key.replace('_', ' ')))})
  if f'{name}_range' in panel:
    axes.set(**{f'{name}lim': panel[f'{name}_range']})
  most = 5 if name == 'x' else 6
  axis.set_major_locator(
    ticker.LogLocator(subs=(1, 2, 5)) if log else ticker.MaxNLocator(most, steps=(1, 2, 2.5, 5, 10))
  )
  axis.set_major_formatter(_percents(axis) if is_fraction(key) else '{x:,.6g}')
  axis.set_minor_locator(ticker.NullLocator())


def _percents(axis):
  """Formats fractions in percent, all ticks with as many decimals as the one that needs most."""

  def shown(value, place):
    del place
    ticks = 100 * axis.get_majorticklocs()
    exact = (d for d in range(4) if np.allclose(ticks, ticks.round(d), rtol=0, atol=1e-6))
    return f'{100 * value:.{next(exact, 4)}f}'

  return shown


def _ticks(axes, panel, values):
  """Ticks at levels: those that the panel names, else every n-th; values fall."""
  if panel.get('x_reverse'):
    axes.invert_xaxis()
  ticks = panel.get('x_ticks', ())
  if not ticks and panel['x'] == 'kept':
    ticks = values[:: -(-len(values) // 6)]  # the paper labels every fourth of 21
  ticks = [v for v in ticks if 0.95 * values[-1] <= v <= 1.05 * values[0]]
  if ticks:
    label = percent if is_fraction(panel['x']) else '{:,.6g}'.format
    axes.set_xticks(ticks, [label(v) for v in ticks])


def color_of(name: str, dark: bool = False) -> str:
  """The color of a name in NAMES, on white or on black."""
  from matplotlib import colormaps
  from matplotlib.colors import LinearSegmentedColormap, to_hex

  kind, place = name[0], int(name[1:])
  if kind == 'd':
    return DISTINCT[place][dark]
  # viridis without its yellow end, which white swallows
  shades = LinearSegmentedColormap.from_list('', ON_BLACK) if dark else colormaps['viridis']
  return to_hex(shades((1.0 if dark else 0.86) * place / (ORDERED - 1)))


def theme(dark: bool) -> str:
  """The colors of NAMES as CSS variables."""
  return ' '.join(f'--{name}: {color_of(name, dark)};' for name in NAMES)


def _themed(text: str) -> str:
  """The <svg> element alone, its colors CSS variables, without size and font of its own."""
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', text, flags=re.S)
  head, _, body = text.partition('>')
  text = re.sub(r' (width|height)="[^"]*"', '', head) + ' role="img">' + body
  text = re.sub(r'<g id="[^"]*"', '<g', text)
  text = re.sub(r" font-family: [^;\"]*;", '', text)
  # places to a hundredth of a point, what is written as it is
  text = re.sub('<[^>]*>', lambda tag: re.sub(r'(\d+\.\d\d)\d+', r'\1', tag[0]), text)
  named = {INK: 'ink', GRID: 'grid', CARD: 'card'} | {color_of(name): name for name in NAMES}
  paint = lambda m: f'{m[1]}: var(--{named[m[2]]}, {m[2]})' if m[2] in named else m[0]
  text = re.sub(r'(fill|stroke): (#[0-9a-f]{6})', paint, text)
  return re.sub(r'\s*\n\s*', '\n', text).strip()
