"""What each task's handler hands to a shadow is what two models can decide about again, with the factory's bundles."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest

from roadloop_agent.config import MadeFlowSource, MadeSignsSource, MadeSpeedsSource, MadeTrafficSource, SlotTable
from roadloop_agent.drive.frames import Frame, Item, refuse
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.drive.shadow.child import Looker
from roadloop_agent.drive.shadow.compare import AnyComparison
from roadloop_agent.drive.shadow.wire import Compared, Seen
from roadloop_agent.drive.sources import opener
from roadloop_agent.onboard import ON_BOARD, load_named
from roadloop_agent.signals_config import MadeDriveSource
from roadloop_models.bundle import Preprocess
from roadloop_models.errors import ConfigError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import FloatArray, Runner
from tests.fakes.detector_files import fastestdet_file
from tests.fakes.imports import imported_detector
from tests.unit.test_object_detection import blocks

SEEN = 10
SOURCES: dict[str, Any] = {
    "traffic-sign": MadeSignsSource(),
    "traffic-speed": MadeSpeedsSource(),
    "traffic-flow": MadeFlowSource(),
    "vehicle-count": MadeTrafficSource(),
    "localization": MadeDriveSource(),
    "drive-state": MadeDriveSource(),
}
DETECTION = "object-detection"


class Upside:
    """A runner whose answers are turned round."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        return tuple(np.asarray(np.float32(10.0) - output) for output in self._runner.run(inputs))


class Around:
    """A slot without room for captures."""

    frames, dropped = 1, 0

    def may_capture(self) -> bool:
        return False


@pytest.fixture(scope="module", params=[*packaged_bundles(), DETECTION])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    if request.param == DETECTION:
        theirs = fastestdet_file(tmp_path_factory.mktemp("detector") / "theirs.onnx")
        directory, key = imported_detector(theirs).directory, "onnx-fp32"
    else:
        directory, key = packaged_bundles()[request.param], "onnx-int8"
    with closing(load_model(directory, key)) as opened:
        yield opened


def task_of(model: Model) -> str:
    return model.bundle.manifest.task


def items(task: str) -> Iterable[Item | None]:
    if task == DETECTION:
        return [Item(number, "", blocks((number % 3, number // 3 % 3, 0), (3, 3, 1))) for number in range(SEEN)]
    return opener(SOURCES[task], None, time.monotonic)(refuse)


def seen_by(model: Model) -> list[Seen]:
    """What the handler says that its model was given, of the first frames that it decided about."""
    task = task_of(model)
    handler = open_handler(SlotTable(task=task, runtime="onnx", source="made", rate_hz=10.0))
    found: list[Seen] = []
    for item in islice((item for item in items(task) if item is not None), 2000):
        frame = Frame(item.number, 0.0, 0, item.data, item.t_source_s)
        outcome = handler.handle(frame, model, Around())
        assert (outcome.seen is None) is not outcome.decided, "every decision can be made again"
        if outcome.seen is not None:
            found.append(outcome.seen)
        if len(found) == SEEN:
            break
    assert len(found) == SEEN
    return found


def looker(candidate: Model, incumbent: Model) -> Looker:
    comparison: AnyComparison = load_named(ON_BOARD[task_of(incumbent)].shadow)
    return Looker(comparison, candidate, incumbent, time.perf_counter_ns)


def test_a_model_agrees_with_itself_and_not_with_its_opposite(model: Model) -> None:
    opposite = replace(model, runner=Upside(model.runner))
    same, other = looker(model, model), looker(opposite, model)
    agreed, differed = [], []
    for seen in seen_by(model):
        answer = same.look(seen)
        assert isinstance(answer, Compared), answer
        agreed.append(answer.agrees)
        assert answer.latency_us > 0 and answer.incumbent_latency_us > 0
        assert answer.confidence_delta in (None, 0.0)
        answer = other.look(seen)
        differed.append(not isinstance(answer, Compared) or not answer.agrees)
    assert all(agreed) and any(differed)


def test_a_candidate_that_is_fed_otherwise_is_refused_where_the_frame_is_gone(model: Model) -> None:
    manifest = model.bundle.manifest
    fed_otherwise = msgspec.structs.replace(manifest, preprocess=Preprocess("foreground-pair", {"height": 48}))
    candidate = replace(model, bundle=replace(model.bundle, manifest=fed_otherwise))
    if task_of(model) == "vehicle-count":
        with pytest.raises(ConfigError, match="it is fed by foreground-pair {'height': 48}"):
            looker(candidate, model)
    else:
        looker(candidate, model)
