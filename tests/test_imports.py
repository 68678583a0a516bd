"""The house: imports point down, flags and config dicts stay at the top, names say something."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
LAYERS = [  # top to bottom; folders of one layer do not import each other
  {'launch', 'configs'},
  {'stages', 'chat'},
  {'prune', 'quantize', 'distill', 'federate', 'search', 'opened', 'written'},
  {'formats', 'mcu', 'data'},
  {'closeness', 'models', 'language', 'path', 'predict', 'ranking', 'train', 'update'},
  {'net', 'run', 'fold', 'cost', 'report', 'checkpoint', 'config', 'progress', 'rows', 'signals'}
  | {'mesh', 'processes', 'saved', 'schedule', 'store'},
  {'detection', 'qtensor', 'kernels', 'losses', 'tokenizer', 'tree', 'cache', 'energy', 'errors'},
]  # fmt: skip
TOGETHER = LAYERS[0], LAYERS[4], LAYERS[5], LAYERS[6]  # the files of these know each other
FILES = [p for top in ('reduction', 'launch', 'configs') for p in (ROOT / top).rglob('*.py')]


def part(module: str) -> str:
  """'reduction.prune.masks' -> 'prune', 'launch.cli' -> 'launch'."""
  first, *rest = module.split('.')
  return rest[0] if first == 'reduction' and rest else first


def imports(path):
  """(line, module) of every import of a file, also those inside functions."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      deeper = node.module == 'reduction'  # from reduction import tree
      for alias in node.names:
        yield node.lineno, f'{node.module}.{alias.name}' if deeper else node.module


def layer(name: str) -> int | None:
  """The layer of a part, None for other packages."""
  return next((i for i, names in enumerate(LAYERS) if name in names), None)


def test_every_part_has_a_layer():
  parts = {p.relative_to(ROOT / 'reduction').parts[0].removesuffix('.py') for p in FILES
           if p.is_relative_to(ROOT / 'reduction')} - {'__init__'}  # fmt: skip
  assert {name for name in parts if layer(name) is None} == set()


def test_imports_point_down():
  wrong = []
  for path in FILES:
    mine = part('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    for line, module in imports(path):
      theirs = part(module)
      if module.split('.')[0] not in ('reduction', 'launch', 'configs') or theirs == mine:
        continue
      up = layer(theirs) is not None and layer(mine) is not None and layer(theirs) < layer(mine)
      beside = layer(theirs) == layer(mine) and LAYERS[layer(mine)] not in TOGETHER
      if up or beside:
        wrong.append(f'{path.relative_to(ROOT)}:{line} imports {module}')
  assert not wrong


def test_flags_and_config_dicts_stay_at_the_top():
  wrong = [
    f'{path.relative_to(ROOT)}:{line} imports {module}'
    for path in FILES
    if path.is_relative_to(ROOT / 'reduction') and path.name != 'config.py'
    for line, module in imports(path)
    if module.split('.')[0] == 'ml_collections' or module.startswith('absl')
  ]
  assert not wrong


def test_no_file_could_hold_anything_or_is_too_long():
  names = {'utils.py', 'common.py', 'helpers.py', 'base.py', 'misc.py'}
  assert [p for p in FILES if p.name in names] == []
  assert [p for p in FILES if len(p.read_text().splitlines()) > 400] == []
  for name in ('net.py', 'run.py'):
    assert len((ROOT / 'reduction' / name).read_text().splitlines()) <= 250
