"""The slots that figures of a driving agent are measured on: a small network often, and a detector now and then."""

from tests.fakes.profiles import sign_profile

SLOT = "eye"
SIGN_PROFILE = sign_profile(100.0, hardware="bench", slot=SLOT)
DETECTOR_PROFILE = f"""
hardware = "bench"
[sources.camera]
kind = "video"
path = "{{clip}}"
loop = true
[slots.{SLOT}]
task = "object-detection"
runtime = "onnx"
precision = "fp32"
source = "camera"
rate_hz = 15.0
"""
