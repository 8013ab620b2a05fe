"""Rollouts: a release reaches the fleet in waves, each behind a gate."""
