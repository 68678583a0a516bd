"""Clients that learn together without showing their data: training, codecs, server, accounting."""
