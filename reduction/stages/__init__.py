"""Reductions, one file a paper: factories of `Stage`, composed from the technique folders."""

from reduction.stages.lottery import lottery

__all__ = ['lottery']
