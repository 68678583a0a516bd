"""Reductions, one file a paper: factories of `Stage`, composed from the technique folders."""

from reduction.stages.lottery import lottery
from reduction.stages.supermask import supermask
from reduction.stages.tune import tune

__all__ = ['lottery', 'supermask', 'tune']
