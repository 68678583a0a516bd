"""Pruning: scores, masks and first weights as pure functions on pytrees of any library."""

from reduction.net import all_kept
from reduction.prune.masks import (
  Group,
  by_name,
  counts,
  cutter,
  groups,
  kept,
  largest,
  largest_in_groups,
  largest_together,
  shuffled,
  shuffled_survivors,
  smallest,
  survivors,
)
from reduction.prune.scores import CRITERIA, criterion, magnitude
from reduction.prune.weights import noisy, signed_constant, with_signs

__all__ = [
  'CRITERIA', 'Group', 'all_kept', 'by_name', 'counts', 'criterion', 'cutter', 'groups', 'kept',
  'largest', 'largest_in_groups', 'largest_together', 'magnitude', 'noisy', 'shuffled',
  'shuffled_survivors', 'signed_constant', 'smallest', 'survivors', 'with_signs',
]  # fmt: skip
