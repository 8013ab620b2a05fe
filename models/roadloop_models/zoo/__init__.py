"""Architectures, in torch: imported by the cloud's training alone."""
