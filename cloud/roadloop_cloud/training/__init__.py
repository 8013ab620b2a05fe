"""Retraining: from rows to a bundle. `run.py` is what others call; the rest runs in its subprocess.

Training is a process of its own because importing torch costs seconds, because converters leak memory, and so that a
crash in one of their native parts is a failed job and not a dead service.
"""
