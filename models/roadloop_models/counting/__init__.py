"""Counting vehicles: background, tracks, lines and crossings; the same code evaluates, infers and drives."""
