"""The HTML report: one file without scripts or links; for paper, phone, light and dark screens."""

import json
from html import escape

from reduction.report import chart
from reduction.report.chart import Line
from reduction.report.figures import Figure
from reduction.report.intervals import NONE
from reduction.report.tables import Code, Table, numeric

LIGHT = (
  '--paper: #f6f7f8; --card: #ffffff; --ink: #1c2328; --soft: #5c6870; --grid: #e3e7ea; '
  '--edge: #d5dbdf; --head: #eef1f3; --mark: #0b5c8a;'
)
DARK = (
  '--paper: #12161a; --card: #1a2026; --ink: #e6eaed; --soft: #9aa7b0; --grid: #2b343c; '
  '--edge: #313b44; --head: #222a31; --mark: #7cc4f2;'
)
CSS = """
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; padding: 2.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans",
    "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 70rem; margin: 0 auto; }
h1 { font-size: clamp(1.6rem, 4.2vw, 2.3rem); line-height: 1.2; margin: 0 0 .4rem;
  letter-spacing: -.015em; font-weight: 680; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.22rem; margin: 0 0 .8rem; letter-spacing: -.005em; font-weight: 650; }
.lead { font-size: 1.05rem; color: var(--soft); margin: 0 0 1.6rem; max-width: 50rem; }
section, figure { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  margin: 0 0 1.4rem; padding: 1.35rem 1.5rem 1.2rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1rem;
  margin: 0 0 1.4rem; padding: 0; list-style: none; }
.tiles li { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: .85rem 1.2rem .75rem; border-top: 3px solid var(--mark); }
.tiles b { display: block; font-size: 1.75rem; line-height: 1.25; font-weight: 640;
  letter-spacing: -.02em; white-space: nowrap; }
.tiles span { color: var(--soft); font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1.4rem; margin: 0;
  font-size: .95rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
code, pre { font: .86em/1.5 ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono",
  "Liberation Mono", monospace; }
dd code { white-space: pre-wrap; }
pre { margin: .9rem 0 0; overflow-x: auto; }
summary { cursor: pointer; font-weight: 600; }
.wide { overflow-x: auto; margin: 0 -1.5rem; padding: 0 1.5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .42rem .9rem; vertical-align: top;
  border-top: 1px solid var(--grid); }
thead th { border-top: 0; background: var(--head); color: var(--soft); font-weight: 600;
  font-size: .82rem; line-height: 1.35; vertical-align: bottom; }
thead th:first-child { border-radius: 6px 0 0 6px; }
thead th:last-child { border-radius: 0 6px 6px 0; }
tbody tr:first-child > * { border-top: 0; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--card); }
.n { text-align: right; }
td.n, th.n { white-space: nowrap; }
thead th.n { white-space: normal; }
td small { display: block; color: var(--soft); font-size: .82em; line-height: 1.3; }
td.t small { display: inline; white-space: nowrap; }
.again > * { border-top-color: transparent; padding-top: 0; }
.again > :first-child { color: transparent; }
.quiet { color: var(--soft); }
.note { color: var(--soft); font-size: .86rem; margin: .9rem 0 0; max-width: 52rem; }
figure h2 { margin-bottom: .25rem; }
figcaption p { margin: 0 0 .6rem; color: var(--soft); font-size: .95rem; max-width: 52rem; }
.panels { display: grid; gap: 1rem 1.6rem; margin-top: .7rem;
  grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }
.one { max-width: 42rem; }
.panel h3 { font-size: .95rem; font-weight: 600; margin: 0 0 .4rem; }
.panel svg.chart { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.2rem; list-style: none; padding: 0;
  margin: .55rem 0 0; font-size: .88rem; }
.legend li { display: inline-flex; align-items: center; gap: .45rem; }
.legend svg { width: 30px; height: 10px; flex: none; }
@media (max-width: 46rem) {
  body { padding-top: 1.4rem; }
  .panels { grid-template-columns: minmax(0, 1fr); }
  section, figure { padding: 1.05rem 1rem .9rem; }
  .wide { margin: 0 -1rem; padding: 0 1rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; }
}
@media print {
  body { background: none; padding: 0; font-size: 10pt; }
  section, figure, .tiles li { border-color: #bbb; }
  figure, tr, .tiles { break-inside: avoid; }
  thead { display: table-header-group; }
  .wide { overflow: visible; }
  table { font-size: 8pt; }
  tbody th { position: static; }
  th, td { padding: .25rem .4rem; }
}
"""
# nothing is fetched and nothing runs, even if a text slipped through unescaped
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(
  title: str,
  lead: str,
  facts: dict[str, str],
  tiles: list[tuple[str, str]],
  tables: list[Table],
  figures: list[Figure],
  config: dict,
  *,
  before: int = 2,
) -> str:
  """The whole page; every text is escaped here. before: tables that stand above the figures."""
  light, dark = (chart.theme(dark) if figures else '' for dark in (False, True))
  boxes = ''.join(f'<li><b>{escape(n)}</b><span>{escape(what)}</span></li>' for n, what in tiles)
  told = ''.join(f'<dt>{escape(key)}</dt><dd>{_text(text)}</dd>' for key, text in facts.items())
  parts = [
    f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>',
    f'<ul class="tiles">{boxes}</ul>' if boxes else '',
    *map(_table, tables[:before]),
    *map(_figure, figures),
    *map(_table, tables[before:]),
    f'<section><h2>The run</h2><dl>{told}</dl></section>' if told else '',
    '<section><details><summary>Config</summary><pre>'
    f'{escape(json.dumps(config, indent=2, ensure_ascii=False))}</pre></details></section>',
  ]
  body = '\n'.join(part for part in parts if part)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
:root {{ {LIGHT} {light} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK} {dark} }} }}
{CSS.strip()}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _text(text: str) -> str:
  return f'<code>{escape(text)}</code>' if isinstance(text, Code) else escape(text)


def _table(table: Table) -> str:
  kinds = ['n' if numeric(table, i) else 't' for i in range(len(table.columns))]
  head = ''.join(
    f'<th scope="col" class="{kind}">{escape(c)}</th>' for c, kind in zip(table.columns, kinds)
  )
  rows, above = [], None
  for row in table.rows:
    again = ' class="again"' if row[0] and row[0] == above else ''
    first = f'<th scope="row" class="{kinds[0]}">{_text(row[0])}</th>'
    cells = ''.join(_cell(text, kind) for text, kind in zip(row[1:], kinds[1:]))
    rows.append(f'<tr{again}>{first}{cells}</tr>')
    above = row[0]
  body = '\n'.join(rows)
  return (
    f'<section><h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n'
    f'<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
    f'<p class="note">{escape(table.note)}</p></section>'
  )


def _cell(text: str, kind: str) -> str:
  """A number stands above its [least, greatest]; what was not found or not run is quiet."""
  quiet = ' quiet' if text == NONE or text.startswith(('no ', 'not ')) else ''
  mean, bracket, rest = ('', '', '') if isinstance(text, Code) else text.partition(' [')
  if bracket and rest.endswith((']', '])')):
    return f'<td class="{kind}{quiet}">{escape(mean)} <small>{escape("[" + rest)}</small></td>'
  return f'<td class="{kind}{quiet}">{_text(text)}</td>'


def _figure(figure: Figure) -> str:
  legends = [_legend(panel.lines) for panel in figure.panels]
  shared = legends and len(set(legends)) == 1
  panels = ''.join(
    '<div class="panel">'
    + (f'<h3>{escape(panel.title)}</h3>' if panel.title else '')
    + panel.svg.replace('<svg', f'<svg class="chart" aria-label="{_described(figure, panel)}"', 1)
    + ('' if shared else legend)
    + '</div>'
    for panel, legend in zip(figure.panels, legends)
  )
  columns = chart.columns(len(figure.panels))
  kind = 'panels one' if len(figure.panels) == 1 else 'panels'
  absent = f'<p class="note">Not run: {escape("; ".join(figure.absent))}.</p>'
  return (
    f'<figure><figcaption><h2>{escape(figure.title)}</h2>'
    + (f'<p>{escape(figure.caption)}</p>' if figure.caption else '')
    + '</figcaption>'
    + (f'<div class="{kind}" style="--columns: {columns}">{panels}</div>' if panels else '')
    + (legends[0] if shared else '')
    + (absent if figure.absent else '')
    + '</figure>'
  )


def _described(figure: Figure, panel) -> str:
  lines = ', '.join(line.label for line in panel.lines)
  return escape(f'{panel.title or figure.title}: {lines or "one line"}')


def _legend(lines: tuple[Line, ...]) -> str:
  if not any(line.label for line in lines):
    return ''
  items = ''.join(f'<li>{swatch(line)}{escape(line.label)}</li>' for line in lines)
  return f'<ul class="legend">{items}</ul>'


def swatch(line: Line) -> str:
  """A piece of a line with its mark, as SVG that takes its colors from the page."""
  color, fill = f'var(--{line.color})', 'var(--card)' if line.dashed else f'var(--{line.color})'
  dashes = ' stroke-dasharray="7 4"' if line.dashed else ''
  return (
    f'<svg viewBox="0 0 30 10" aria-hidden="true" stroke="{color}" fill="{fill}">'
    f'<path d="M0 5H30" stroke-width="2.2"{dashes}/>'
    f'<path d="{chart.MARKS[line.mark][1]}" stroke-width="1.5" transform="translate(10)"/></svg>'
  )
