"""Networks as functions of their settings; each returns a Flax Linen module."""

from reduction.models.mlp import lenet, mlp

__all__ = ['lenet', 'mlp']
