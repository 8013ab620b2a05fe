"""Dead reckoning through a GNSS outage: pure arithmetic that evaluation, `infer` and the vehicle share.

`sample.py` says what is known at one moment, `trace.py` is what the network sees and says, `calibration.py` learns the
odometer's error while a reference is seen, `planar.py` follows position and heading, `session.py` joins them.
"""

from roadloop_models.localization.sample import Reference, Sample, SampleReader
from roadloop_models.localization.session import DriftEstimator, Estimate, Session
from roadloop_models.localization.trace import Drift, DriftPostprocess, SpeedTrace, SpeedTracePreprocess

__all__ = [
    "Drift",
    "DriftEstimator",
    "DriftPostprocess",
    "Estimate",
    "Reference",
    "Sample",
    "SampleReader",
    "Session",
    "SpeedTrace",
    "SpeedTracePreprocess",
]
