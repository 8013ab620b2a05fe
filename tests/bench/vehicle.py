"""Figures of the vehicle: what the agent costs over the bare runtime, and what a sample weighs on the wire."""

import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from roadloop_agent.drive.handlers.sign import classify, sign_row
from roadloop_agent.drive.handlers.speed import forecast, speed_observations, speed_row
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.ipc import Pipe, make_socketpair
from roadloop_models.contract.channels import TELEMETRY
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import TelemetryBatch
from roadloop_models.contract.streams import MAX_FIELDS, ROAD_SPEED, SIGN_DECISION, SPEED_DECISION, Field
from roadloop_models.packaged import packaged_bundles
from roadloop_models.preprocess import FloatArray
from roadloop_models.tasks.speed_data import load_training_speeds
from tests.bench.figures import Figure, Result, Skipped, paired_medians_us

SIGN, SPEED = "traffic-sign", "traffic-speed"
ROUNDS, CALLS = 40, 50
BATCH = 100
MQTT_HEADER_BYTES = 8
"""Fixed header, topic length, packet id and property length of a QoS 1 PUBLISH in MQTT 5."""
Handle = Callable[[Model, tuple[FloatArray, ...], Outbox], None]
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(data: Path | None) -> list[Result]:
    """Latency that the agent adds, and bytes on the wire."""
    results: list[Result] = []
    for runtime in ("onnx", "tflite"):
        added_us, bare_us = _added(SIGN, f"{runtime}-int8", _classify)
        results.append(_figure(f"latency_bare_cnn_us_{runtime}", bare_us, "us"))
        results.append(_figure(f"latency_added_cnn_us_{runtime}", added_us, "us", bar=25.0))
    added_us, bare_us = _added(SPEED, "onnx-int8", _forecast)
    results.append(_figure("latency_bare_lstm_us", bare_us, "us"))
    results.append(_figure("latency_added_lstm_us", added_us, "us", bar=25.0))
    results.append(_figure("wire_bytes_per_sample_made", _made_sample_bytes(), "B", bar=40.0))
    if data is None:
        return [*results, Skipped("wire_bytes_per_sample_road", "ROADLOOP_DATA names no data")]
    return [*results, _figure("wire_bytes_per_sample_road", _road_sample_bytes(data), "B", bar=40.0)]


def _added(
    task: str, key: str, agent: "Callable[[Model, tuple[FloatArray, ...], Outbox], None]"
) -> tuple[float, float]:
    """(microseconds that the agent adds from tensor ready to decision handed on, those of the bare runtime)."""
    model = load_model(packaged_bundles()[task], key)
    random = np.random.default_rng(1)
    inputs = tuple(random.random(tensor.shape, dtype=np.float32) for tensor in model.variant.inputs)
    bare = _bare(model, inputs)
    near, far = make_socketpair()
    outbox = Outbox(Pipe(near), 1, time.monotonic)
    far.setblocking(False)

    def handed_on() -> None:
        agent(model, inputs, outbox)

    agent_us, bare_us = [], []
    for _ in range(ROUNDS):
        with_agent, without = paired_medians_us(handed_on, bare, 1, CALLS)
        agent_us.append(with_agent)
        bare_us.append(without)
        _drain(far)
    near.close()
    far.close()
    model.close()
    differences = np.array(agent_us) - np.array(bare_us)
    return float(np.median(differences)), float(np.median(bare_us))


def _classify(model: Model, inputs: tuple[FloatArray, ...], outbox: Outbox) -> None:
    decision = classify(model, inputs)
    row = sign_row(decision, item=1, latency_us=100.0, release=1, captured=False, dropped=0)
    outbox.sample(SIGN_DECISION, 1, row)


def _forecast(model: Model, inputs: tuple[FloatArray, ...], outbox: Outbox) -> None:
    row = speed_row(forecast(model, inputs), inputs[0][0, -1], step=1, latency_us=100.0, release=1)
    outbox.sample(SPEED_DECISION, 1, row)


def _bare(model: Model, inputs: tuple[FloatArray, ...]) -> Callable[[], object]:
    """The runtime alone on the same tensors; integers where the file takes integers."""
    path = str(model.bundle.path(model.variant.file))
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
    tensors = [_stored(detail, array) for detail, array in zip(interpreter.get_input_details(), inputs, strict=True)]
    output = interpreter.get_output_details()[0]["index"]

    def invoke() -> object:
        for index, stored in tensors:
            interpreter.set_tensor(index, stored)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return invoke


def _stored(detail: dict[str, Any], array: FloatArray) -> tuple[int, Any]:
    scale, zero_point = detail["quantization"]
    if detail["dtype"] == np.float32:
        return detail["index"], array
    return detail["index"], np.clip(np.rint(array / scale) + zero_point, -128, 127).astype(detail["dtype"])


def _drain(sock: socket.socket) -> None:
    try:
        while True:
            sock.recv(1 << 17)
    except BlockingIOError:
        return


def _made_sample_bytes() -> float:
    """22 signals as a car gives them: 12 smooth ones, 6 counters, 4 that never change."""
    random = np.random.default_rng(7)
    smooth = np.cumsum(random.normal(size=(BATCH, 12)) * 0.05, axis=0) + 20
    counters = np.cumsum(random.integers(0, 3, size=(BATCH, 6)), axis=0)
    constants = np.tile(random.integers(0, 9, size=4), (BATCH, 1))
    rows = np.concatenate([smooth, counters, constants], axis=1)
    fields = [Field(f"signal_{index}", 0.01 if index < 12 else 1.0) for index in range(MAX_FIELDS)]
    return _bytes_per_sample("signals", encode_columns(fields, range(0, BATCH * 100, 100), rows.tolist()))


def _road_sample_bytes(data: Path) -> float:
    """Real road speeds, as a vehicle sends them."""
    rows = load_training_speeds(data, "rest")
    samples = [
        row
        for step, speeds in zip(rows.steps, rows.speeds_mph, strict=True)
        for row in speed_observations(int(step), speeds)
    ]
    sizes = [
        _bytes_per_sample(
            ROAD_SPEED.name, encode_columns(ROAD_SPEED.fields, range(BATCH), samples[start : start + BATCH])
        )
        for start in range(0, len(samples) - BATCH, BATCH)
    ]
    return float(np.mean(sizes))


def _bytes_per_sample(stream: str, columns: bytes) -> float:
    payload = encode(TELEMETRY, TelemetryBatch(boot=1, first_seq=1, last_seq=BATCH, columns=columns))
    return (len(payload) + len(TELEMETRY.topic("van-1", stream=stream)) + MQTT_HEADER_BYTES) / BATCH
