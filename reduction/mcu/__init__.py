"""Networks for microcontrollers: an integer graph, its exact meaning, its memory, its C."""
