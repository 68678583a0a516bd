"""How updates travel, by name: each returns a `Codec`."""

from reduction.federate.codecs.dense import dense
from reduction.federate.codecs.factors import low_rank
from reduction.federate.codecs.power import power
from reduction.federate.codecs.quantized import quantized
from reduction.federate.codecs.sketch import sketch

__all__ = ['dense', 'low_rank', 'power', 'quantized', 'sketch']
