"""Command lines: run, sweep, report, bench."""
