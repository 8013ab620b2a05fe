"""Counting vehicles: background, detections, tracks, lines and crossings; the same code evaluates, infers and drives."""
