"""Benchmarks: what `python -m launch.bench` runs."""
