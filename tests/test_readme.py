"""The README's example runs as it stands, and its commands name what is there."""

import importlib
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()
PAGES = sorted([ROOT / 'README.md', *ROOT.glob('configs/*/README.md')])


def test_the_example_runs(capsys):
  (code,) = re.findall(r'<!-- example -->\n```python\n(.*?)```', README, re.S)
  assert len([line for line in code.splitlines() if line]) <= 12
  exec(compile(code, 'README.md', 'exec'), {})
  *_, ticket, reinit = capsys.readouterr().out.splitlines()
  assert ticket.startswith('ticket 0.64') and reinit.startswith('reinit 0.64')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_the_files_it_names_are_there(page):
  text = page.read_text()
  named = set(re.findall(r'(?:configs|launch)/[\w/-]+\.(?:py|jsonl|md)', text))
  named |= {f'launch/{m}.py' for m in re.findall(r'launch\.(\w+)', text)}
  assert named and [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.parent.name)
def test_pictures_are_there_and_all_are_shown(page):
  shown = {page.parent / name for name in re.findall(r'!\[[^\]]+\]\(([^)]+)\)', page.read_text())}
  assert shown == set(page.parent.glob('pictures/*'))


def test_every_committed_result_has_its_place_on_a_page():
  marked = {p.parent.name: re.findall(r'<!-- results:(\S+) -->', p.read_text()) for p in PAGES}
  for rows in sorted(ROOT.glob('configs/*/results/*.jsonl')):
    header = json.loads(rows.open().readline())
    name = re.sub(r'^configs/|\.py(?=:|$)', '', header['config'])
    folder = rows.parent.parent.name
    assert folder == 'bench' or {name, name.partition(':')[0], folder} & {*marked[folder]}, rows


def test_every_committed_result_is_of_a_config_that_still_has_its_stages_and_claims():
  for rows in sorted(ROOT.glob('configs/*/results/*.jsonl')):
    header = json.loads(rows.open().readline())
    path, _, variant = header['config'].partition(':')
    c = importlib.import_module(path.removesuffix('.py').replace('/', '.')).get_config(variant)
    there = header['resolved']
    assert tuple(c.get('stages', ())) == tuple(there.get('stages', ())), rows
    assert set(c.get('paper', ())) == set(there.get('paper', ())), rows
