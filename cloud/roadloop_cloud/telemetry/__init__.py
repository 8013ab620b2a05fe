"""Stored samples: moved from raw batches to Delta tables, read back whole, and accounted for."""
