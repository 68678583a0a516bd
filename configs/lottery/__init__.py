"""Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019 (arXiv:1803.03635)."""
