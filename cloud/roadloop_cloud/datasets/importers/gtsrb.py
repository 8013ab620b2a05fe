"""GTSRB as INI Bochum publishes it: PPM pictures in a folder per class, each class with a CSV; and the test set."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_cloud.datasets.importers.layouts import Imported, Request
from roadloop_models.data_files import check_readable
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageStandardize
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, TRAIN_FILE, SignRows, write_signs

TEST_LABELS = "GT-final_test.csv"


@dataclass(frozen=True)
class _Picture:
    path: Path
    class_id: int
    track: int


def read(request: Request) -> Imported:
    """Every picture whole (with its border of about a tenth), at 32 x 32; a track is one physical sign."""
    training = _one(request.source, "Final_Training/Images")
    pictures = [picture for table in sorted(training.glob("*/GT-*.csv")) for picture in _listed(table, tracks=True)]
    if not pictures:
        raise DataError(f"{training}: has no folders 00000, 00001, … with a CSV like GT-00000.csv")
    rows = {f"{FOLDER}/{TRAIN_FILE}": _write(request.target / FOLDER / TRAIN_FILE, pictures, with_tracks=True)}
    notes = []
    tables = sorted(request.source.rglob(TEST_LABELS))
    if tables:
        folder = _one(request.source, "Final_Test/Images")
        tested = list(_listed(tables[0], tracks=False, folder=folder))
        rows[f"{FOLDER}/{TEST_FILE}"] = _write(request.target / FOLDER / TEST_FILE, tested, with_tracks=False)
    else:
        notes.append(f"no test rows: there is no {TEST_LABELS} (GTSRB_Final_Test_GT.zip has it)")
    return Imported(("traffic-sign",), rows, tuple(notes))


def _one(source: Path, wanted: str) -> Path:
    """The folder of that name, wherever the archive was unpacked."""
    found = [path for path in (source / wanted, *sorted(source.glob(f"*/{wanted}"))) if path.is_dir()]
    if not found:
        raise DataError(f"{source}: has no folder {wanted}; name the folder that GTSRB was unpacked in")
    return found[0]


def _listed(table: Path, tracks: bool, folder: Path | None = None) -> Iterator[_Picture]:
    """The pictures of one CSV (`Filename;Width;…;ClassId`). A training picture is called `track_frame.ppm`."""
    check_readable(table)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter=";"), 2):
                name, label = row.get("Filename") or "", row.get("ClassId") or ""
                track = name.partition("_")[0] if tracks else str(number)
                if not (name and label.isdecimal() and int(label) < len(SIGN_LABELS) and track.isdecimal()):
                    raise DataError(
                        f"{table}: line {number}: file '{name}' of class '{label}'; expected a name like "
                        f"00000_00012.ppm and a class from 0 to {len(SIGN_LABELS) - 1}"
                    )
                yield _Picture((folder or table.parent) / name, int(label), int(track))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a table: {error}") from error


def _write(path: Path, pictures: list[_Picture], with_tracks: bool) -> int:
    import cv2

    preprocess = ImageStandardize()
    images = np.empty((len(pictures), 32, 32, 3), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        check_readable(picture.path)
        decoded = cv2.imread(str(picture.path), cv2.IMREAD_COLOR)
        if decoded is None:
            raise DataError(f"{picture.path}: truncated or no picture")
        images[index] = preprocess.resize(np.ascontiguousarray(decoded[:, :, ::-1]))
    labels, tracks = (np.array(column) for column in zip(*((one.class_id, one.track) for one in pictures), strict=True))
    write_signs(path, SignRows(images, labels, tracks), with_tracks)
    return len(pictures)
