"""What `rollout plan` says before anything happens, and how windows and ramps are read."""

import pytest

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.rollout.preview import Known, preview, vehicle_bytes
from roadloop_cloud.rollout.settings import Settings, specification
from roadloop_cloud.rollout.spec import Ramp, Target
from roadloop_cloud.rollout.target import Candidate, Requirement, select
from roadloop_cloud.rollout.waves import parse_ramp, ramp_sizes
from roadloop_cloud.rollout.windows import parse_window
from roadloop_models.bundle.delta import patch_name
from roadloop_models.bundle.manifest import FileEntry, GoldenSpec, Manifest, Preprocess, TensorSpec, Variant
from roadloop_models.contract.messages import MaintenanceWindow, ReleaseRef, Reported, ReportedSlot
from roadloop_models.errors import ConfigError

TASK = "traffic-sign"
SHARED = FileEntry("labels.txt", "f" * 64, 500)


def manifest(version: str, letter: str) -> Manifest:
    """Weights of 100,000 (onnx) and 60,000 bytes (tflite) that are this version's own, labels that all share."""

    def variant(runtime: str) -> Variant:
        spec = (TensorSpec("x", (1, 3), "float32"),)
        return Variant(runtime, "int8", f"model.{runtime}", spec, spec, 0.0)  # type: ignore[arg-type]

    files = (
        FileEntry("model.onnx", letter * 64, 100_000),
        FileEntry("model.tflite", (letter + "e") * 32, 60_000),
        FileEntry("golden.npz", (letter + "d") * 32, 300),
        SHARED,
    )
    return Manifest(
        format=1,
        task=TASK,
        version=version,
        min_agent_version="0.1.0",
        files=files,
        variants=(variant("onnx"), variant("tflite")),
        preprocess=Preprocess("sign-standardize"),
        golden=GoldenSpec(seed=0, count=1, low=(0.0,), high=(1.0,), file="golden.npz"),
        labels="labels.txt",
    )


OLD = ReleaseRef(task=TASK, release=1, version="v1", manifest_sha256="1" * 64)
NEW = ReleaseRef(task=TASK, release=2, version="v2", manifest_sha256="2" * 64)
REQUIRED = (Requirement(NEW, manifest("v2", "b")),)
PATCH = f"{TASK}/2/{patch_name('model.onnx', 'a' * 64)}"


def candidate(name: str, runtime: str | None = "onnx", **more: object) -> Candidate:
    report = None
    if runtime is not None:
        slot = ReportedSlot(task=TASK, running=OLD, runtime=runtime, precision="int8", state="idle")
        report = Reported(boot=1, agent_version="0.1.0", hardware="h", desired_version=1, slots={"sign": slot})
    fields = {"hardware": f"kind-{runtime}", "profile": "p", "online": True, "wanted": {"sign": OLD}, "report": report}
    return Candidate(name, **{**fields, **more})  # type: ignore[arg-type]


def known(**sizes: int) -> Known:
    return Known(
        sizes={f"{TASK}/2/manifest.json": 1_000, **sizes},
        held={(TASK, 1): manifest("v1", "a")},
        fleet=20,
        bytes_per_s=1_000,
        cost_per_gb=2_000.0,
        now_s=10_000.0,
    )


@pytest.mark.parametrize(
    ("runtime", "sizes", "wanted", "whole"),
    [
        ("onnx", {}, 1_000 + 100_000 + 300, 101_800),
        ("onnx", {PATCH: 7_000}, 1_000 + 7_000 + 300, 101_800),
        ("onnx", {PATCH: 700_000}, 1_000 + 100_000 + 300, 101_800),
        ("tflite", {PATCH: 7_000}, 1_000 + 60_000 + 300, 61_800),
        (None, {PATCH: 7_000}, 101_800, 101_800),
    ],
    ids=["labels-are-there", "patch", "patch-too-large", "patch-of-another-variant", "never-reported"],
)
def test_bytes_of_a_vehicle(runtime: str | None, sizes: dict[str, int], wanted: int, whole: int) -> None:
    made = vehicle_bytes(candidate("v", runtime), REQUIRED, known(**sizes))
    assert (made.wanted, made.whole) == (wanted, whole)


def test_waves_times_cost_and_blast_radius() -> None:
    fleet = [candidate(f"v{n}", "onnx" if n % 2 else "tflite") for n in range(8)]
    fleet += [candidate("off", "onnx", online=False, seen_s=1_000.0), candidate("strange", "hexagon")]
    fleet.append(candidate("busy", "onnx", busy={TASK: 7}))
    target = Target(everyone=True)
    selection = select(fleet, target, REQUIRED)
    settings = Settings(waves=("1", "50%", "100%"), soak_s=60.0, timeout_s=600.0, health_window_s=30.0)
    spec = specification(REQUIRED, target, len(selection.chosen), settings, RolloutConfig())
    made = preview(spec, selection.chosen, REQUIRED, selection, known(**{PATCH: 9_700}))
    assert [wave.vehicles for wave in made.waves] == [1, 4, 5]
    assert made.waves[0].cohorts == {"kind-tflite | p | v1": 1}
    assert made.bytes == 4 * 61_300 + 6 * 11_000
    assert made.whole_bytes == 4 * 61_800 + 6 * 101_800
    assert made.largest_bytes == 61_300
    assert made.cost == pytest.approx(made.bytes * 2e-6)
    assert made.waves[0].at_least_s == pytest.approx(61.3 + 30 + 60)
    assert made.at_most_s == 3 * 660
    assert (made.first_gate, made.blast_radius) == (1 / 20, 5 / 20)
    assert made.left_out == {"runs hexagon-int8; traffic-sign v2 has onnx-int8, tflite-int8": ("strange",)}
    assert made.collisions == {7: ("busy",)}
    assert made.offline == {"off": 1_000.0}


def test_a_ramp_is_previewed_as_if_all_succeed() -> None:
    assert ramp_sizes(Ramp(first=1, factor=2.0), 20) == (1, 2, 4, 8, 5)
    assert ramp_sizes(Ramp(first=3, factor=1.5), 4) == (3, 1)
    assert parse_ramp("5x1.5") == Ramp(first=5, factor=1.5)
    for text in ("5", "x2", "0x2", "1x1", "1xnan", "-1x2"):
        with pytest.raises(ConfigError, match="ramp"):
            parse_ramp(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mo-Fr 01:00-05:00", MaintenanceWindow(from_minute=60, to_minute=300, weekdays=(1, 2, 3, 4, 5))),
        ("22:00-04:30", MaintenanceWindow(from_minute=1320, to_minute=270)),
        ("Sa,Su 00:00-24:00", MaintenanceWindow(from_minute=0, to_minute=1440, weekdays=(6, 7))),
        ("fr-mo 1:05-2:00", MaintenanceWindow(from_minute=65, to_minute=120, weekdays=(1, 5, 6, 7))),
    ],
)
def test_windows(text: str, expected: MaintenanceWindow) -> None:
    assert parse_window(text) == expected


@pytest.mark.parametrize("text", ["", "Mo", "Xx 01:00-02:00", "01:00-01:00", "01:60-02:00", "24:30-02:00", "1-2"])
def test_windows_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="window"):
        parse_window(text)
