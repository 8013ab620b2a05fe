"""The slots that figures of a driving agent are measured on: a small network often, and a detector now and then."""

SLOT = "eye"
SIGN_PROFILE = f"""
hardware = "bench"
[sources.camera]
kind = "made-signs"
loop = true
[slots.{SLOT}]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 100.0
"""
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
