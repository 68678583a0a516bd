"""DTMM: filterlets, and what they compete with, on microcontrollers."""
