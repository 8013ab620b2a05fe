"""object-detection over images: one line an image, and on request a clip that shows what was found."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roadloop_agent.drive.handlers.object_detection import detect, detection_line
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions, Lines
from roadloop_agent.infer.annotate import open_clip
from roadloop_agent.infer.images import open_images


def open_lines(model: Model, path: Path, options: InferOptions) -> Lines:
    """Raises DataError where the file has no images, or the annotated clip cannot be written."""
    source = open_images(path)

    def lines() -> Iterator[dict[str, Any]]:
        with contextlib.ExitStack() as stack:
            clip = None if options.annotate is None else stack.enter_context(open_clip(options.annotate, path))
            for item in source:
                height, width = item.data.shape[:2]
                found = detect(model, model.preprocess(item.data), height, width)
                if clip is not None:
                    clip.add(item.data, found, model.postprocess.labels)
                yield {"input": item.name, "frame": item.number, **detection_line(found, model.postprocess.labels)}

    return Lines(lines(), len(source))
