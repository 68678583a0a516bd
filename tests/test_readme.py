"""The README's example runs as it stands, and its commands name what is there."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / 'README.md').read_text()


def test_the_example_runs(capsys):
  (code,) = re.findall(r'<!-- example -->\n```python\n(.*?)```', README, re.S)
  assert len([line for line in code.splitlines() if line]) <= 12
  exec(compile(code, 'README.md', 'exec'), {})
  *_, ticket, reinit = capsys.readouterr().out.splitlines()
  assert ticket.startswith('ticket 0.64') and reinit.startswith('reinit 0.64')


def test_the_files_it_names_are_there():
  root = pathlib.Path(__file__).parent.parent
  named = set(re.findall(r'configs/[\w/]+\.py', README))
  named |= {f'launch/{m}.py' for m in re.findall(r'launch\.(\w+)', README)}
  assert named and [name for name in sorted(named) if not (root / name).exists()] == []
