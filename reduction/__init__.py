"""Makes neural networks smaller in JAX: prune, quantize, distill, federate, search, deploy."""

__version__ = '0.1.0'
