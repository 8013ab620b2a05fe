"""A detector's bundle, made by the import itself."""

from pathlib import Path

from roadloop_cloud.importing.make import import_model
from roadloop_cloud.importing.request import ImportRequest
from roadloop_models.bundle import Bundle
from tests.fakes.detector_files import write_labels


def imported_detector(path: Path, task: str = "object-detection", version: str = "theirs-1") -> Bundle:
    """The bundle of a file of tests/fakes/detector_files.py, beside it; its one variant is `onnx-fp32`."""
    labels = write_labels(path.parent / "labels.txt")
    request = ImportRequest(path=path, runtime="onnx", task=task, version=version, labels=labels)
    return import_model(request, path.parent / f"bundle-{version}", lambda text: None).bundle
