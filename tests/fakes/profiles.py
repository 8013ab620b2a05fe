"""Hardware profiles of vehicles that drive on what is made."""


def sign_profile(rate_hz: float, *, hardware: str = "test", slot: str = "sign") -> str:
    """One slot that decides about drawn signs, again and again."""
    return f"""
hardware = "{hardware}"
[sources.camera]
kind = "made-signs"
loop = true
[slots.{slot}]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = {rate_hz}
"""
