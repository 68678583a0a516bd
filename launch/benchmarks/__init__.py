"""Benchmarks by name: each takes its settings and returns `bench(session) -> (rows, tables)`."""

from launch.benchmarks.imports import imports
from launch.benchmarks.packed import packed
from launch.benchmarks.pictures import pictures
from launch.benchmarks.quantizing import quantized_layers, quantized_model
from launch.benchmarks.roofline import roofline
from launch.benchmarks.searching import searching
from launch.benchmarks.teaching import teaching
from launch.benchmarks.training import training

__all__ = [
  'imports', 'packed', 'pictures', 'quantized_layers', 'quantized_model', 'roofline', 'searching',
  'teaching', 'training',
]  # fmt: skip
