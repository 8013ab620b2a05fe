"""Recorded drives: tables of signals in source time, and the public data sets that are read without any mapping."""

from roadloop_models.recordings.layouts import read_layout
from roadloop_models.recordings.recording import Recording, merged
from roadloop_models.recordings.signal_table import write_signals

__all__ = ["Recording", "merged", "read_layout", "write_signals"]
