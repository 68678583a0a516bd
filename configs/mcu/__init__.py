"""Nets for microcontrollers."""
