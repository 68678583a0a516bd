"""Reductions, one file a paper: factories of `Stage`, composed from the technique folders."""

from reduction.stages.awq import awq
from reduction.stages.compare import compare
from reduction.stages.compound import compound
from reduction.stages.correct import correct
from reduction.stages.darts import darts
from reduction.stages.distill import distill
from reduction.stages.fedavg import fedavg
from reduction.stages.fedkd import fedkd
from reduction.stages.fedmd import fedmd
from reduction.stages.filterlet import filterlet
from reduction.stages.finalists import finalists
from reduction.stages.folder import folder
from reduction.stages.gain import gain
from reduction.stages.lottery import lottery
from reduction.stages.microcontroller import microcontroller
from reduction.stages.mutual import mutual
from reduction.stages.on_policy import on_policy
from reduction.stages.plain import plain
from reduction.stages.pretrained import pretrained
from reduction.stages.qat import qat
from reduction.stages.qat_mcu import qat_mcu
from reduction.stages.quantize import quantize
from reduction.stages.rank import rank
from reduction.stages.rivals import rivals
from reduction.stages.salient import salient
from reduction.stages.schedule import schedule
from reduction.stages.specialists import specialists
from reduction.stages.specialize import specialize
from reduction.stages.supermask import supermask
from reduction.stages.supernet import supernet
from reduction.stages.tinynas import tinynas
from reduction.stages.tune import tune
from reduction.stages.versus import versus

__all__ = [
  'awq', 'compare', 'compound', 'correct', 'darts', 'distill', 'fedavg', 'fedkd', 'fedmd',
  'filterlet', 'finalists', 'folder', 'gain', 'lottery', 'microcontroller', 'mutual',
  'on_policy', 'plain', 'pretrained', 'qat', 'qat_mcu', 'quantize', 'rank', 'rivals', 'salient',
  'schedule', 'specialists', 'specialize', 'supermask', 'supernet', 'tinynas', 'tune', 'versus',
]  # fmt: skip
