"""Experiments as data: one folder a paper, one file an experiment."""
