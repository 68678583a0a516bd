"""Distillation: Hinton, Vinyals & Dean 2015 and what followed."""
