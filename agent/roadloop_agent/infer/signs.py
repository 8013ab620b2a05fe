"""traffic-sign over images: one line an image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadloop_agent.drive.handlers.sign import classify, sign_line
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions, Lines
from roadloop_agent.infer.images import open_images


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """Raises DataError where the file has no images."""
    source = open_images(path)

    def lines() -> Iterator[dict[str, Any]]:
        for item in source:
            yield {"input": item.name, **sign_line(classify(model, model.preprocess(item.data)))}

    return Lines(lines(), len(source))
