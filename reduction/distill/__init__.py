"""Distillation as pure functions: ensembles, kept targets, transfer sets, bias, specialists."""
