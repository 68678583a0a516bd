"""Calls and signatures broken where clang-format breaks them: at commas, 100 columns wide."""

WIDTH = 100


def broken(text: str, indent: int = 0, after: str = '') -> str:
  """`name(a, b, ...)` as lines; what does not fit goes on behind the first parenthesis.

  indent: spaces before it. after: what follows at once, such as ' {' or ';'.
  """
  head, rest = text.split('(', 1)
  parts, column = _parts(rest.rpartition(')')[0]), indent + len(head) + 1
  lines, line = [], ' ' * indent + head + '('
  for i, part in enumerate(parts):
    last = i == len(parts) - 1
    part += ')' + after if last else ','
    start = not line.strip() or line.endswith('(')
    grown = line + ('' if start else ' ') + part
    if len(grown) > WIDTH and not start:
      lines.append(line)
      grown = ' ' * column + part
    line = grown
  return '\n'.join([*lines, line])


def _parts(text: str) -> list[str]:
  """Split at the commas that stand in no brace."""
  parts, depth = [''], 0
  for c in text:
    depth += (c in '({') - (c in ')}')
    if c == ',' and not depth:
      parts.append('')
    else:
      parts[-1] += c
  return [part.strip() for part in parts]
