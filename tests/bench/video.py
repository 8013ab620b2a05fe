"""How many frames of a video file a second go through capture, detector and telemetry, beside a bare loop."""

import statistics
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from roadloop_agent.config import SlotTable, VideoSource
from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Mailbox
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import load_model
from roadloop_agent.drive.roll import CaptureRoll
from roadloop_agent.drive.slots import Slot
from roadloop_agent.drive.sources import opener
from roadloop_cloud.importing.make import import_model
from roadloop_cloud.importing.request import ImportRequest
from tests.bench.figures import Figure, Result, Skipped
from tests.fakes.pipes import FakePipe

NAME = "video_throughput_ratio"
ROUNDS = 5
_COMMAND = "scripts/bench vehicle"
_UNPACED_HZ = 10_000.0


def figures(data: Path | None) -> list[Result]:
    """Frames a second of the agent / of a bare OpenCV and ONNX Runtime loop; the median of ROUNDS that take turns."""
    if data is None:
        return [Skipped(NAME, "ROADLOOP_DATA names no data")]
    detector, clip = data / "models" / "FastestDet.onnx", data / "video" / "solidWhiteRight.mp4"
    with tempfile.TemporaryDirectory() as folder:
        request = ImportRequest(
            path=detector,
            runtime="onnx",
            task="object-detection",
            version="bench",
            labels=data / "models" / "coco.names",
        )
        import_model(request, Path(folder) / "bundle", lambda _: None)
        pairs = [(agent_fps(Path(folder) / "bundle", clip), bare_fps(detector, clip)) for _ in range(ROUNDS)]
    return [
        Figure("video_bare_fps", statistics.median(bare for _, bare in pairs), "frames/s", _COMMAND),
        Figure(NAME, statistics.median(agent / bare for agent, bare in pairs), "", _COMMAND, 0.95, "at least"),
    ]


def agent_fps(bundle: Path, clip: Path) -> float:
    """Decode, preprocess, infer, decide, count and number a sample for every frame, with the threads that drive has."""
    rate = _UNPACED_HZ
    table = SlotTable(task="object-detection", runtime="onnx", precision="fp32", source="camera", rate_hz=rate)
    mailbox, outbox = Mailbox(), Outbox(FakePipe(), 1, time.monotonic)
    slot = Slot(
        name="detector",
        table=table,
        handler=open_handler(table),
        mailbox=mailbox,
        outbox=outbox,
        roll=CaptureRoll(1, outbox, {"detector": 1}, bytes),
        announce=lambda *_: None,
        clock=time.monotonic,
    )
    source = VideoSource(path=clip.name, pace="as-consumed")
    capture = Capture(
        name="camera",
        open_items=opener(source, clip, time.monotonic),
        period_s=1.0 / rate,
        pace=source.pace,
        loop=False,
        subscribers=[Subscriber(mailbox, 1.0 / rate)],
        clock=time.monotonic,
        wall_ms=lambda: 0,
    )
    slot.offer(load_model(bundle, table.variant_key))
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(stop, lambda: None)) for run in (slot.run, capture.run)]
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    while not mailbox.idle:
        time.sleep(0.001)
    stop.set()
    threads[0].join()
    took_s = time.perf_counter() - begun_s
    threads[1].join()
    decisions = sum(tally.decisions for tally in slot.collect())
    assert decisions == slot.work.frames > 0, capture.collect_error()
    return decisions / took_s


def bare_fps(detector: Path, clip: Path) -> float:
    """Read, resize, scale and run the network; its outputs are not looked at."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(detector), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    height, width = entry.shape[2:]
    capture = cv2.VideoCapture(str(clip))
    frames, begun_s = 0, time.perf_counter()
    while True:
        given, image = capture.read()
        if not given:
            break
        tensor = cv2.resize(image, (width, height)).transpose(2, 0, 1)[None].astype(np.float32) * np.float32(1 / 255)
        session.run(None, {entry.name: np.ascontiguousarray(tensor)})
        frames += 1
    took_s = time.perf_counter() - begun_s
    capture.release()
    return frames / took_s
