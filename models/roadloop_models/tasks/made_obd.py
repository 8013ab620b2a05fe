"""Made OBD drives: two made cars in free, normal and jammed traffic, by a seed, where no real data is at hand.

The driver accelerates towards a wish that the traffic changes now and then, so that speed and pedal say something
about the next seconds; the engine follows from speed, gear and load, so that each signal says something about others.
"""

import numpy as np
import numpy.typing as npt

from roadloop_models.drive_state.signals import NAMES
from roadloop_models.tasks.obd_data import ObdDrive, Record

Floats = npt.NDArray[np.float64]

KIT_DRIVES, KIT_ROWS = 18, 900
CAR_MODES, CAR_LOGS, CAR_ROWS = ("drive", "live"), 8, 700
_STATE_NAMES = ("Frei", "Normal", "Stau")
_WISHES_MPS = ((22.0, 38.0), (6.0, 26.0), (0.0, 8.0))
"""Of free, normal and jammed traffic."""
_WISH_S = (40.0, 15.0, 8.0)
_STEP_S = 0.5
_GEARS_RPM_PER_MPS = np.array([260.0, 145.0, 95.0, 68.0, 52.0])
_SHIFTS_MPS = np.array([5.0, 10.0, 16.0, 23.0])
_IDLE_RPM = 850.0
_WARM_C = 88.0


def made_obd_drives(seed: int) -> list[ObdDrive]:
    """KIT_DRIVES drives of one car and CAR_LOGS logs in each mode of another; equal seeds give equal drives."""
    generator = np.random.Generator(np.random.PCG64(seed))
    drives = []
    for number in range(KIT_DRIVES):
        state = number % len(_STATE_NAMES)
        name = f"made_{number:02}_{_STATE_NAMES[state]}"
        drives.append(_drive(name, "kit", state, KIT_ROWS, generator))
    for mode in CAR_MODES:
        for number in range(1, CAR_LOGS + 1):
            drives.append(_drive(f"{mode}{number}", "car", int(generator.integers(3)), CAR_ROWS, generator))
    return drives


def _drive(name: str, record: Record, state: int, rows: int, generator: np.random.Generator) -> ObdDrive:
    signals = _engine(_speeds(state, rows, generator), record, generator)
    return ObdDrive(name, record, np.stack([signals[signal] for signal in NAMES], axis=1).astype(np.float32))


def _speeds(state: int, rows: int, generator: np.random.Generator) -> Floats:
    """m/s: towards a wish, with at most 1.6 m/s^2 up and 2.4 down, gently where it is near."""
    speeds = np.empty(rows)
    low, high = _WISHES_MPS[state]
    speed = wish = float(generator.uniform(low, high))
    for row in range(rows):
        if generator.random() < _STEP_S / _WISH_S[state]:
            wish = float(generator.uniform(low, high)) * (generator.random() > 0.1)
        acceleration = float(np.clip(0.25 * (wish - speed), -2.4, 1.6)) + generator.normal(0, 0.1)
        speed = max(speed + _STEP_S * acceleration, 0.0)
        speeds[row] = speed
    return speeds


def _engine(speed: Floats, record: Record, generator: np.random.Generator) -> dict[str, Floats]:
    """What the engine shows at these speeds, in the catalogue's units and rounded as OBD rounds."""
    rows = len(speed)
    acceleration = np.gradient(speed, _STEP_S)
    gear = np.searchsorted(_SHIFTS_MPS, speed)
    rpm = np.maximum(speed * _GEARS_RPM_PER_MPS[gear], _IDLE_RPM) + generator.normal(0, 12, rows)
    demand = 0.12 + 0.25 * np.maximum(acceleration, 0.0) + 0.00035 * speed**2
    demand = np.clip(demand * (acceleration > -0.4) + generator.normal(0, 0.01, rows), 0.02, 1.0)
    pressure = (30.0 if record == "car" else 95.0) + demand * (68.0 if record == "car" else 120.0)
    ambient = float(generator.uniform(-5, 30))
    since_s = _STEP_S * np.arange(rows) + generator.uniform(0, 600)
    warmth = 1.0 - np.exp(-since_s / 240.0)
    throttle = 14.0 + 45.0 * demand
    noisy = generator.normal
    signals = {
        "Speed": np.round(speed * 3.6) / 3.6,
        "EngineSpeed": np.round(rpm * 4) / 4,
        "EngineLoad": 18.0 + 75.0 * demand,
        "CoolantTemperature": np.round(ambient + (_WARM_C - ambient) * warmth),
        "IntakeTemp": np.round(ambient + 14.0 - 0.2 * speed),
        "MAP": np.round(pressure + noisy(0, 0.7, rows)),
        "MAF": rpm * pressure / 9000.0 + noisy(0, 0.15, rows),
        "ThrottlePosition": throttle + noisy(0, 0.2, rows),
        "ThrottleActuator": throttle,
        "AcceleratorPositionD": 15.0 + 60.0 * np.maximum(demand - 0.12, 0.0),
        "AcceleratorPositionE": 31.0 + 60.0 * np.maximum(demand - 0.12, 0.0),
        "AmbientAirTemperature": np.full(rows, round(ambient)),
        "TimingAdvance": 4.0 + 0.008 * rpm - 18.0 * demand + noisy(0, 1.0, rows),
        "ShortTermFuelTrim1": noisy(0, 2.0, rows),
        "Temperature1": 150.0 + 330.0 * warmth + 150.0 * _lagged(demand, 0.03),
        "ControlModuleVoltage": 13.8 - 0.1 * demand + noisy(0, 0.03, rows),
    }
    return {name: np.asarray(values) for name, values in signals.items()}


def _lagged(values: Floats, share: float) -> Floats:
    """What follows `values` with a delay: each row takes over `share` of the difference."""
    followed = np.empty_like(values)
    state = float(values[0])
    for row, value in enumerate(values):
        state += share * (float(value) - state)
        followed[row] = state
    return followed
