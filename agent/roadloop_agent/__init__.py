"""The vehicle: runs models, sends telemetry, takes updates."""
