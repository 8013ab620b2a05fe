"""What the agent adds to the bare runtime, from the tensor that is ready to the decision that is handed on.

The code that drives is called with a real link process at the other end of its pipe, connected to a broker.
"""

import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roadloop_agent.drive.handlers.object_detection import counted_classes, detect, detection_row
from roadloop_agent.drive.handlers.sign import classify, sign_row
from roadloop_agent.drive.handlers.speed import forecast, speed_row
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.infer.images import open_images
from roadloop_agent.ipc import Hello, Pipe
from roadloop_agent.socketpair import make_socketpair
from roadloop_cloud.importing.make import import_model
from roadloop_cloud.importing.request import ImportRequest
from roadloop_models.bundle import Bundle
from roadloop_models.contract.streams import DETECTION, SIGN_DECISION, SPEED_DECISION
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import FloatArray
from tests.bench.figures import Figure, Result, Skipped, paired_medians_us
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

SIGN, SPEED = "traffic-sign", "traffic-speed"
VAN = "van-bench"
CALLS = 3000
DETECTORS = {"": "FastestDet.onnx", "_yolox": "yolox_nano.onnx"}
"""End of a figure's name -> file below models/ of the data."""
Handle = Callable[[Model, tuple[FloatArray, ...], Outbox], None]
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(data: Path | None) -> list[Result]:
    """Latency that the agent adds."""
    results: list[Result] = []
    with linked_outbox() as outbox:
        for runtime in ("onnx", "tflite"):
            added_us, bare_us = _added(SIGN, f"{runtime}-int8", _classify, outbox)
            results.append(_figure(f"latency_bare_cnn_us_{runtime}", bare_us, "us"))
            results.append(_figure(f"latency_added_cnn_us_{runtime}", added_us, "us", bar=25.0))
        added_us, bare_us = _added(SPEED, "onnx-int8", _forecast, outbox)
        results.append(_figure("latency_bare_lstm_us", bare_us, "us"))
        results.append(_figure("latency_added_lstm_us", added_us, "us", bar=25.0))
        if data is None:
            return [*results, Skipped("latency_ratio_detector", "ROADLOOP_DATA names no data")]
        for suffix, file in DETECTORS.items():
            results += _detector(data, file, suffix, outbox)
    return results


@contextlib.contextmanager
def linked_outbox() -> Iterator[Outbox]:
    """Drive's end of the pipe to a link process that spools what it gets and sends it to a cloud that commits it."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        broker, repository = MosquittoBroker(directory / "broker"), Repository(utc_now())
        bundle = Bundle.open(packaged_bundles()[SIGN])
        van = TestVehicle(directory / VAN, VAN, broker, repository, {"sign": bundle})
        near, far = make_socketpair()
        child = [sys.executable, "-m", "roadloop_agent.app"]
        subprocess.run([*child, "provision", "--config", str(van.config)], check=True)
        with broker, SmallCloud(broker, repository) as cloud, (van.directory / "agent.log").open("wb") as log:
            command = [*child, "link", "--config", str(van.config), "--pipe", str(far.fileno())]
            link = subprocess.Popen(command, pass_fds=(far.fileno(),), stderr=log)
            outbox = Outbox(Pipe(near), 1, time.monotonic)
            outbox.send(Hello(boot=1, slots={}))
            try:
                van.wait("link reports", lambda: VAN in cloud.reported)
                yield outbox
            finally:
                link.terminate()
                link.wait(15)
        near.close()
        far.close()


def _added(task: str, key: str, handle: Handle, outbox: Outbox) -> tuple[float, float]:
    """(microseconds that the agent adds, those of the bare runtime)."""
    model = load_model(packaged_bundles()[task], key)
    random = np.random.default_rng(1)
    inputs = tuple(random.random(tensor.shape, dtype=np.float32) for tensor in model.variant.inputs)
    with contextlib.closing(model):
        agent_us, bare_us = _paired(model, inputs, handle, outbox, CALLS)
    return agent_us - bare_us, bare_us


def _detector(data: Path, file: str, suffix: str, outbox: Outbox) -> Iterator[Figure]:
    """A third party's detector on a frame of a dash camera with cars in it.

    The ratio is to `session.run` of the third party's file, which is what somebody without Roadloop would run. What is
    added is to `session.run` of the file in the bundle, which an import may have made quicker.
    """
    image = next(itertools.islice(open_images(data / "video" / "solidWhiteRight.mp4"), 100, None)).data

    def handle(model: Model, inputs: tuple[FloatArray, ...], outbox: Outbox) -> None:
        found = detect(model, inputs, *image.shape[:2])
        row = detection_row(
            found,
            counted,
            item=1,
            latency_us=1.0,
            release=1,
            captured=False,
            dropped=0,
        )
        outbox.sample(DETECTION, 1, row)

    with tempfile.TemporaryDirectory() as folder:
        model = load_model(imported_detector(data, Path(folder), file).directory, "onnx-fp32")
        counted = counted_classes(model, ("car", "truck"))
        with contextlib.closing(model):
            inputs = model.preprocess(image)
            calls = CALLS // 10
            agent_us, bare_us = _paired(model, inputs, handle, outbox, calls, data / "models" / file)
            yield _figure(f"latency_bare_detector{suffix}_us", bare_us, "us")
            yield _figure(f"latency_ratio_detector{suffix}", agent_us / bare_us, "", bar=1.05)
            agent_us, bare_us = _paired(model, inputs, handle, outbox, calls)
            yield _figure(f"latency_bare_detector{suffix}_imported_us", bare_us, "us, the file in the bundle")
            yield _figure(f"latency_added_detector{suffix}_us", agent_us - bare_us, "us over the file in the bundle")


def imported_detector(data: Path, folder: Path, file: str = "FastestDet.onnx") -> Bundle:
    """A third party's file as `roadloop models import` makes a bundle of it, below `folder`."""
    request = ImportRequest(
        path=data / "models" / file,
        runtime="onnx",
        task="object-detection",
        version="bench",
        labels=data / "models" / "coco.names",
    )
    import_model(request, folder / "detector", lambda _: None)
    return Bundle.open(folder / "detector")


def _paired(
    model: Model,
    inputs: tuple[FloatArray, ...],
    handle: Handle,
    outbox: Outbox,
    calls: int,
    source: Path | None = None,
) -> tuple[float, float]:
    """(microseconds with the agent, bare): medians of calls that take turns. `source`: as of `bare_runtime`."""
    bare = bare_runtime(model, inputs, source)
    stop = threading.Event()
    flushing = threading.Thread(target=_flush, args=(outbox, stop))  # as drive's main thread does
    flushing.start()
    try:
        return paired_medians_us(lambda: handle(model, inputs, outbox), bare, calls, 1)
    finally:
        stop.set()
        flushing.join()


def _flush(outbox: Outbox, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        outbox.flush()


def _classify(model: Model, inputs: tuple[FloatArray, ...], outbox: Outbox) -> None:
    decision = classify(model, inputs)
    row = sign_row(decision, item=1, latency_us=100.0, release=1, captured=False, dropped=0)
    outbox.sample(SIGN_DECISION, 1, row)


def _forecast(model: Model, inputs: tuple[FloatArray, ...], outbox: Outbox) -> None:
    outputs = model.run(inputs)

    def report() -> None:
        row = speed_row(forecast(model, outputs), inputs[0][0, -1], step=1, latency_us=100.0, release=1)
        outbox.sample(SPEED_DECISION, 1, row)

    outbox.later(report)


def bare_runtime(model: Model, inputs: tuple[FloatArray, ...], source: Path | None = None) -> Callable[[], object]:
    """The runtime alone on the same float32 tensors; where a file takes integers, quantized as the runtime's own
    documentation does it. `source`: another file than the bundle's."""
    path = str(source or model.bundle.path(model.variant.file))
    if model.variant.runtime == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {tensor.name: array for tensor, array in zip(model.variant.inputs, inputs, strict=True)}
        return partial(session.run, None, feeds)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    tensors = list(zip(interpreter.get_input_details(), inputs, strict=True))
    output = interpreter.get_output_details()[0]["index"]

    def invoke() -> object:
        for detail, array in tensors:
            interpreter.set_tensor(detail["index"], _stored(detail, array))
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return invoke


def _stored(detail: dict[str, Any], array: FloatArray) -> Any:
    if detail["dtype"] == np.float32:
        return array
    scale, zero_point = detail["quantization"]
    return np.clip(np.rint(array / scale) + zero_point, -128, 127).astype(detail["dtype"])
