"""Images with boxes that a person drew, as COCO describes them: objects/annotations.json and the images beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from roadloop_models.data_files import check_readable
from roadloop_models.detect import Detections
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray
from roadloop_models.typed import from_json

FOLDER, ANNOTATIONS_FILE = "objects", "annotations.json"
MADE_IMAGES = 12
MADE_LABELS = ("red block", "green block")
MADE_SIZE = 64
"""Made images are square, cut into cells of a quarter; each block fills one."""
_PATH = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}\Z")]


class _Image(msgspec.Struct):
    id: int
    file_name: _PATH


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    """x, y, width, height in pixels."""


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    """What is read of the file; the rest of COCO's fields is passed over."""

    images: Annotated[list[_Image], msgspec.Meta(min_length=1)]
    annotations: list[_Annotation]
    categories: Annotated[list[_Category], msgspec.Meta(min_length=1)]


@dataclass(frozen=True)
class ObjectRows:
    """Test images by path, each with the boxes drawn in it; their classes index `labels`."""

    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    truth: tuple[Detections, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def images(self) -> Iterator[ImageArray]:
        """The images, uint8 RGB, in order. Raises DataError where one cannot be read."""
        import cv2

        for path in self.paths:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise DataError(f"{path}: missing, or not an image that OpenCV reads")
            converted: ImageArray = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield converted


def load_objects(data_dir: Path) -> ObjectRows:
    """The images and boxes below `data_dir`/objects. Raises DataError naming file and field."""
    path = data_dir / FOLDER / ANNOTATIONS_FILE
    check_readable(path)
    try:
        coco = from_json(path.read_bytes(), _Coco)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    places = {category.id: index for index, category in enumerate(coco.categories)}
    boxes: dict[int, list[tuple[float, float, float, float]]] = {image.id: [] for image in coco.images}
    classes: dict[int, list[int]] = {image.id: [] for image in coco.images}
    for number, annotation in enumerate(coco.annotations):
        if annotation.image_id not in boxes or annotation.category_id not in places:
            raise DataError(f"{path}: annotations[{number}]: its image or category is not in the file")
        left, top, width, height = annotation.bbox
        boxes[annotation.image_id].append((left, top, left + width, top + height))
        classes[annotation.image_id].append(places[annotation.category_id])
    truth = tuple(Detections(boxes[image.id], [1.0] * len(boxes[image.id]), classes[image.id]) for image in coco.images)
    labels = tuple(category.name for category in coco.categories)
    return ObjectRows(labels, tuple(path.parent / image.file_name for image in coco.images), truth)


def write_made_objects(data_dir: Path, seed: int) -> None:
    """Draw images with red and green blocks in random cells, and say where they are."""
    import cv2

    random = np.random.default_rng(seed)
    folder = data_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    cell = MADE_SIZE // 4
    images, annotations = [], []
    for number in range(MADE_IMAGES):
        image = np.full((MADE_SIZE, MADE_SIZE, 3), 128, dtype=np.uint8)
        for place in random.choice(16, size=int(random.integers(1, 4)), replace=False).tolist():
            category = int(random.integers(len(MADE_LABELS)))
            left, top = (place % 4) * cell, (place // 4) * cell
            image[top : top + cell, left : left + cell] = 20
            image[top : top + cell, left : left + cell, category] = random.integers(200, 256)
            box = (left, top, cell, cell)
            annotations.append({"image_id": number, "category_id": category + 1, "bbox": box})
        name = f"{number:03}.png"
        cv2.imwrite(str(folder / name), image[:, :, ::-1])
        images.append({"id": number, "file_name": name})
    categories = [{"id": index + 1, "name": label} for index, label in enumerate(MADE_LABELS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / ANNOTATIONS_FILE).write_bytes(msgspec.json.encode(content))
