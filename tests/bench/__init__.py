"""Measurements of speed, size, memory and accuracy; `scripts/bench` runs them."""
