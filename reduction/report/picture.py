"""A figure as one SVG file that stands alone, for pages that show files; light and dark screens."""

from html import escape

from reduction.report import chart
from reduction.report.figures import Figure
from reduction.report.page import DARK, LIGHT, swatch

WIDTH = {1: 528, 2: 860, 3: 1000}  # of the picture, by panels beside each other
GAP, LINE = 24, 22  # between panels, of a line of text
LETTER = 7.2  # width of one, about
TEXT = (
  'text { font: 13px system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; '
  'fill: var(--ink) } .title { font-weight: 600 } .paper { fill: var(--card) }'
)


def svg(figure: Figure) -> str:
  """The panels of a figure side by side, each with its title and legend, as an SVG document."""
  beside = chart.columns(len(figure.panels))
  wide, tall = chart.SIZES[beside]
  width = (WIDTH[beside] - GAP * (beside + 1)) / beside
  height, top, parts = width * tall / wide, GAP, []
  for first in range(0, len(figure.panels), beside):
    row = figure.panels[first : first + beside]
    legends = [_legend(panel.lines, width) for panel in row]
    for place, (panel, legend) in enumerate(zip(row, legends)):
      size = f'y="{LINE}" width="{width:.1f}" height="{height:.1f}"'
      drawn = panel.svg.replace('<svg', f'<svg {size}', 1)
      title = f'<text class="title" y="12">{escape(panel.title)}</text>'
      below = _moved(0, 1.5 * LINE + height, ''.join(legend))
      parts.append(_moved(GAP + place * (width + GAP), top, title + drawn + below))
    top += 1.5 * LINE + height + GAP + LINE * max(map(len, legends))
  return (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    f'viewBox="0 0 {WIDTH[beside]} {top:.0f}" role="img">'
    f'<title>{escape(figure.title)}</title>{_style()}'
    f'<rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
  )


def _style() -> str:
  dark = f'@media (prefers-color-scheme: dark) {{ svg {{ {DARK} {chart.theme(True)} }} }}'
  return f'<style>svg {{ {LIGHT} {chart.theme(False)} }} {dark} {TEXT}</style>'


def _moved(x: float, y: float, inner: str) -> str:
  return f'<g transform="translate({x:.1f} {y:.1f})">{inner}</g>'


def _legend(lines, width: float) -> list[str]:
  """Rows of swatches and labels, as many beside each other as the width holds."""
  lines = [line for line in lines if line.label]
  if not lines:
    return []
  each = 44 + LETTER * max(len(line.label) for line in lines)
  beside = max(1, int(width // each))
  items = []
  for i, line in enumerate(lines):
    mark = swatch(line).replace('<svg', '<svg width="30" height="10"', 1)
    label = f'{mark}<text x="36" y="9">{escape(line.label)}</text>'
    items.append(_moved(each * (i % beside), LINE * (i // beside), label))
  return [''.join(items[i : i + beside]) for i in range(0, len(items), beside)]
