"""A figure as a file that stands alone: well-formed, nothing fetched, all of its lines named."""

import re
from xml.etree import ElementTree

import pytest

from reduction.report import figures, picture, pool

SVG = '{http://www.w3.org/2000/svg}'


def rows(board, *names):
  return [
    dict(kind='cdf', budget=board, space=name, quantile=q / 4, macs=[i + q], seeds=[0])
    for i, name in enumerate(names) for q in range(5)
  ]  # fmt: skip


def drawn(panels: int):
  names = [f'{rank}: {side} & <wide>' for rank, side in ((10, 48), (1, 224), (2, 96))]
  boards = [f'board {i}' for i in range(panels)]
  spec = dict(
    title='Networks that "fit"', kind='cdf', x='macs', y='quantile', lines='space', spread='none',
    panels={name: dict(where=dict(budget=name), title=name) for name in boards},
  )  # fmt: skip
  return figures.draw('cdf', spec, [row for name in boards for row in rows(name, *names)])


@pytest.mark.parametrize('panels', [1, 2, 3, 4])
def test_a_picture_holds_every_panel_and_line_within_its_box(panels):
  text = picture.svg(drawn(panels))
  root = ElementTree.fromstring(text)
  wide, tall = map(float, root.get('viewBox').split()[2:])
  inner = [s for s in root.iter(SVG + 'svg') if s.get('role') == 'img' and s is not root]
  assert len(inner) == panels and root.find(SVG + 'title').text == 'Networks that "fit"'
  told = [''.join(t.itertext()) for t in root.iter(SVG + 'text')]
  assert told.count('board 0') == 1 and told.count('2: 96 & <wide>') == panels
  order = [label for label in told if 'wide' in label][:3]
  assert order == ['1: 224 & <wide>', '2: 96 & <wide>', '10: 48 & <wide>']
  moved = [(0.0, 0.0)]
  for group in root.findall(SVG + 'g'):
    x, y = map(float, re.findall(r'[\d.]+', group.get('transform')))
    chart = group.find(SVG + 'svg')
    moved.append((x + float(chart.get('width')), y + float(chart.get('height'))))
  assert all(x <= wide and y <= tall for x, y in moved)


def test_a_picture_fetches_nothing_and_has_colors_for_both_screens():
  text = picture.svg(drawn(2))
  assert not re.search(r'(?:href|src)="(?!#)|url\((?!#)|@import|<script', text)
  for names in re.findall(r'var\(--(\w+)', text):
    assert text.count(f'--{names}:') == 2  # light and dark
  assert 'prefers-color-scheme: dark' in text
  assert picture.svg(drawn(2)) == text  # of the same rows the same file


def test_numbers_in_names_are_sorted_as_numbers():
  names = ['R10', 'R2', '10: b', '2: a', 'Q', '']
  assert sorted(names, key=pool.natural) == ['', '2: a', '10: b', 'Q', 'R2', 'R10']
