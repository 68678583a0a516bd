"""Benchmarks by name: each takes its settings and returns `bench(session) -> (rows, tables)`."""

from launch.benchmarks.accelerated import accelerated
from launch.benchmarks.by_rows import by_rows
from launch.benchmarks.chatting import chatting
from launch.benchmarks.deployed import ablated, accounted, architectures, patched, shipped
from launch.benchmarks.federating import encoding, federating
from launch.benchmarks.filterlets import filterlets
from launch.benchmarks.imports import imports
from launch.benchmarks.packed import packed
from launch.benchmarks.pictures import pictures
from launch.benchmarks.quantizing import quantized_layers, quantized_model
from launch.benchmarks.remembering import remembering
from launch.benchmarks.roofline import roofline
from launch.benchmarks.searching import predicting, searching, timing
from launch.benchmarks.stepping import stepping
from launch.benchmarks.teaching import teaching
from launch.benchmarks.training import training
from launch.benchmarks.twin import twin

__all__ = [
  'ablated', 'accelerated', 'accounted', 'architectures', 'by_rows', 'chatting', 'encoding',
  'federating', 'filterlets', 'imports', 'packed', 'patched', 'pictures', 'predicting',
  'quantized_layers', 'quantized_model', 'remembering', 'roofline', 'searching', 'shipped',
  'stepping', 'teaching', 'timing', 'training', 'twin',
]  # fmt: skip
