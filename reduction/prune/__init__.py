"""Pruning: scores and masks as pure functions on pytrees of any library."""

from reduction.prune.masks import all_kept, by_name, kept, largest, smallest, survivors
from reduction.prune.scores import magnitude

__all__ = ['all_kept', 'by_name', 'kept', 'largest', 'magnitude', 'smallest', 'survivors']
