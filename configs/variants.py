"""Variants of a config: what stands behind the colon in `--config=configs/lottery/lenet.py:15k`."""


def split(variant: str, known: tuple[str, ...]) -> set[str]:
  """The names in variant, joined by commas. Raises ValueError for one that is not known."""
  found = set(variant.split(',')) - {''}
  if unknown := found - set(known):
    raise ValueError(f'no variant {min(unknown)!r}; there are {", ".join(known)}')
  return found
