"""Quantization: weights in few bits as pure functions on arrays."""

from reduction.quantize.rtn import Grid, codes, grid, on_grid, quantize, snapped

__all__ = ['Grid', 'codes', 'grid', 'on_grid', 'quantize', 'snapped']
