"""What a slot feels of a candidate in its shadow: its latency with one, over that without."""

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import Desired, ReleaseRef
from roadloop_models.contract.streams import DETECTION, SIGN_DECISION
from roadloop_models.packaged import packaged_bundles
from tests.bench.driving_profiles import DETECTOR_PROFILE, SIGN_PROFILE, SLOT
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.interference import VAN, Case, another_version, latencies, wait_for_samples
from tests.bench.latency import imported_detector
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

Latencies = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Stretch = tuple[int, int]
"""Wall time at begin and end, ms."""

PHASE_S = 8.0
"""With and without take turns of so long: what else the machine does falls on both."""
TURNS = 3
PATIENCE_S = 120.0
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(data: Path | None) -> list[Result]:
    """Median and 99th percentile with a shadow that uses its whole budget, over those without."""
    cases = [Case("cnn", lambda _: Bundle.open(packaged_bundles()["traffic-sign"]), SIGN_PROFILE, SIGN_DECISION)]
    results: list[Result] = []
    if data is None:
        results.append(Skipped("latency_p50_ratio_with_shadow_detector", "ROADLOOP_DATA names no data"))
    else:
        clip = (data / "video" / "solidWhiteRight.mp4").resolve()
        cases.append(Case("detector", partial(imported_detector, data), DETECTOR_PROFILE.format(clip=clip), DETECTION))
    for case in cases:
        median, tail = _ratios(case)
        results.append(_figure(f"latency_p50_ratio_with_shadow_{case.name}", median, "", bar=1.05))
        results.append(_figure(f"latency_p99_ratio_with_shadow_{case.name}", tail, ""))
    return results


def _ratios(case: Case) -> tuple[float, float]:
    """Of the median, and of the 99th percentile."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        broker, repository = MosquittoBroker(directory / "broker"), Repository(utc_now())
        bundle = case.bundle(directory)
        van = TestVehicle(directory / VAN, VAN, broker, repository, {SLOT: bundle}, case.profile)
        candidate = repository.add(another_version(bundle, directory / "next"), 2)
        with van, broker, SmallCloud(broker, repository) as cloud:
            cloud.wait("the vehicle reports", lambda: VAN in cloud.reported, PATIENCE_S)
            alone, beside = [], []
            for turn in range(TURNS):
                alone.append(_stretch())
                _desire(cloud, van, 2 * turn + 1, candidate)
                cloud.wait("it is in the shadow", lambda: _frames(cloud) > 0, PATIENCE_S)
                before = _frames(cloud)
                beside.append(_stretch())
                cloud.wait("it was busy all the time", lambda before=before: _frames(cloud) > before, PATIENCE_S)  # type: ignore[misc]
                _desire(cloud, van, 2 * turn + 2, None)
                cloud.wait("it is gone", lambda: _frames(cloud) == 0, PATIENCE_S)
            wait_for_samples(cloud, case.stream, beside[-1][1])
            with cloud.lock:
                latency_us, t_ms = latencies(cloud, case.stream)

    return _ratio(latency_us, t_ms, beside, alone, 50), _ratio(latency_us, t_ms, beside, alone, 99)


def _ratio(latency_us: Latencies, t_ms: Times, ones: list[Stretch], others: list[Stretch], percentile: int) -> float:
    """Of a percentile of the latency within some stretches, to that within others."""

    def within(stretches: list[Stretch]) -> float:
        chosen = [(t_ms >= begin_ms) & (t_ms < end_ms) for begin_ms, end_ms in stretches]
        return float(np.percentile(latency_us[np.logical_or.reduce(chosen)], percentile))

    return within(ones) / within(others)


def _stretch() -> Stretch:
    """Some seconds: wall time at their begin and end, ms."""
    begin_ms = time.time_ns() // 1_000_000
    time.sleep(PHASE_S)
    return begin_ms, time.time_ns() // 1_000_000


def _desire(cloud: SmallCloud, van: TestVehicle, version: int, candidate: ReleaseRef | None) -> None:
    shadows = {} if candidate is None else {SLOT: candidate}
    cloud.desire(VAN, Desired(version=version, slots={SLOT: van.refs[SLOT]}, shadows=shadows))


def _frames(cloud: SmallCloud) -> int:
    """Frames that both decided about, as reported last; 0 where nobody is in the shadow."""
    reported = cloud.reported.get(VAN)
    shadow = None if reported is None else reported.slots[SLOT].shadow
    return 0 if shadow is None or shadow.state != "running" else shadow.frames
