"""Benchmarks by name: each takes its settings and returns `bench(session) -> (rows, tables)`."""

from launch.benchmarks.by_rows import by_rows
from launch.benchmarks.chatting import chatting
from launch.benchmarks.imports import imports
from launch.benchmarks.packed import packed
from launch.benchmarks.pictures import pictures
from launch.benchmarks.quantizing import quantized_layers, quantized_model
from launch.benchmarks.roofline import roofline
from launch.benchmarks.teaching import teaching
from launch.benchmarks.training import training

__all__ = [
  'by_rows', 'chatting', 'imports', 'packed', 'pictures', 'quantized_layers', 'quantized_model',
  'roofline', 'teaching', 'training',
]  # fmt: skip
