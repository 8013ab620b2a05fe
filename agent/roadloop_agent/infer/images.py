"""The image file, folder, video or npz that a person names."""

from pathlib import Path

from roadloop_agent.drive.sources.images import SUFFIXES, Images, NpzImages, Video
from roadloop_models.errors import DataError


def open_images(path: Path) -> NpzImages | Images | Video:
    """What lies at `path`, by its name. Raises DataError where that is nothing that has images."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        raise DataError(f"{path}: a CSV has no images; this bundle takes images, a folder, a video or an .npz")
    if suffix == ".npz":
        return NpzImages(path)
    if path.is_dir() or suffix in SUFFIXES:
        return Images(path)
    return Video(path)
