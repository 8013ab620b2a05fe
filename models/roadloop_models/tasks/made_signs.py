"""Made traffic signs: the 43 classes drawn from a table, seen through seeded light, pose, blur and noise.

They stand in where no real data is at hand. A drawing has the outline, the colours and the inner mark of its class,
so that classes are told apart by what tells the real ones apart; nobody would take one for a photograph.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from roadloop_models.preprocess import ImageArray
from roadloop_models.tasks.sign_data import SignRows

_CANVAS = 128
_RED, _BLUE, _WHITE, _BLACK, _GREY, _YELLOW = (
    (190, 30, 35),
    (25, 75, 165),
    (235, 235, 235),
    (20, 20, 20),
    (120, 120, 120),
    (240, 190, 40),
)
_Point = tuple[int, int]

# Marks are polylines on a 100 x 100 grid inside the sign; text is drawn as it is.
_LIMITS = {0: "20", 1: "30", 2: "50", 3: "60", 4: "70", 5: "80", 7: "100", 8: "120"}
_WARNINGS: dict[int, list[list[_Point]]] = {
    11: [[(50, 25), (50, 85)], [(30, 55), (70, 55)]],
    18: [[(50, 35), (50, 65)], [(50, 78), (50, 82)]],
    19: [[(60, 85), (60, 60), (40, 45), (40, 35)]],
    20: [[(40, 85), (40, 60), (60, 45), (60, 35)]],
    21: [[(40, 85), (60, 70), (40, 55), (60, 35)]],
    22: [[(25, 80), (38, 62), (50, 78), (62, 62), (75, 80)]],
    23: [[(35, 55), (65, 55)], [(35, 85), (45, 65)], [(65, 85), (55, 65)]],
    24: [[(40, 85), (40, 35)], [(65, 85), (55, 55), (55, 35)]],
    25: [[(35, 85), (55, 50)], [(45, 60), (70, 85)], [(60, 85), (75, 85)]],
    26: [[(50, 38), (50, 42)], [(50, 58), (50, 62)], [(50, 78), (50, 82)]],
    27: [[(50, 40), (50, 65)], [(50, 65), (38, 85)], [(50, 65), (62, 85)], [(38, 52), (62, 52)]],
    28: [[(42, 50), (42, 85)], [(60, 60), (60, 85)], [(42, 62), (60, 68)]],
    29: [[(30, 75), (34, 80)], [(66, 75), (70, 80)], [(32, 76), (50, 58), (68, 76)]],
    30: [[(50, 40), (50, 85)], [(32, 50), (68, 76)], [(68, 50), (32, 76)]],
    31: [[(30, 60), (65, 55)], [(38, 60), (34, 85)], [(60, 56), (64, 85)], [(65, 55), (74, 42)]],
}
_ARROWS: dict[int, list[list[_Point]]] = {
    33: [[(35, 85), (35, 50), (80, 50)], [(65, 35), (80, 50), (65, 65)]],
    34: [[(65, 85), (65, 50), (20, 50)], [(35, 35), (20, 50), (35, 65)]],
    35: [[(50, 85), (50, 18)], [(35, 34), (50, 18), (65, 34)]],
    36: [[(40, 85), (40, 20)], [(40, 60), (80, 60)], [(68, 48), (80, 60), (68, 72)]],
    37: [[(60, 85), (60, 20)], [(60, 60), (20, 60)], [(32, 48), (20, 60), (32, 72)]],
    38: [[(25, 25), (75, 75)], [(75, 50), (75, 75), (50, 75)]],
    39: [[(75, 25), (25, 75)], [(25, 50), (25, 75), (50, 75)]],
    40: [[(30, 62), (30, 35), (55, 25)], [(72, 38), (72, 65), (48, 76)], [(40, 82), (20, 68)]],
}
_CARS: list[list[_Point]] = [[(18, 62), (42, 62)], [(58, 62), (82, 62)]]
_TRUCKS: list[list[_Point]] = [[(15, 45), (48, 45), (48, 65), (15, 65)], [(58, 62), (82, 62)]]


def made_signs(tracks_per_class: int, frames: int, seed: int) -> SignRows:
    """Draw `frames` images of each of `tracks_per_class` signs of all classes; equal seeds give equal rows."""
    generator = np.random.Generator(np.random.PCG64(seed))
    images, labels, tracks = [], [], []
    for class_id in range(43):
        drawing = _draw(class_id)
        for track in range(tracks_per_class):
            scene = _Scene(generator)
            for _ in range(frames):
                images.append(scene.photograph(drawing, generator))
                labels.append(class_id)
                tracks.append(class_id * tracks_per_class + track)
    return SignRows(np.stack(images), np.array(labels, dtype=np.int64), np.array(tracks, dtype=np.int64))


class _Scene:
    """What stays the same over the frames of one track: light, background, blur."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._background = generator.integers(20, 220, size=(6, 6, 3)).astype(np.uint8)
        self._light = float(generator.uniform(0.35, 1.1))
        self._tint = generator.uniform(0.85, 1.15, size=3)
        self._blur = float(generator.uniform(0.3, 1.3))
        self._turn_deg = float(generator.uniform(-9, 9))

    def photograph(self, drawing: ImageArray, generator: np.random.Generator) -> ImageArray:
        import cv2

        scale = float(generator.uniform(0.78, 1.0)) * 32 / _CANVAS
        turn = cv2.getRotationMatrix2D(
            (_CANVAS / 2, _CANVAS / 2), self._turn_deg + float(generator.normal(0, 2)), scale
        )
        turn[:, 2] += 16 - _CANVAS / 2 + generator.uniform(-2, 2, size=2)
        placed = cv2.warpAffine(drawing, turn, (32, 32), flags=cv2.INTER_AREA).astype(np.float64)
        behind = cv2.resize(self._background, (32, 32), interpolation=cv2.INTER_CUBIC)
        cover = placed[:, :, 3:] / 255.0
        image = placed[:, :, :3] * cover + behind * (1 - cover)
        image = cv2.GaussianBlur(image, (0, 0), self._blur) * self._light * self._tint
        image += generator.normal(0, 4, size=image.shape)
        result: ImageArray = np.clip(image, 0, 255).astype(np.uint8)
        return result


def _draw(class_id: int) -> ImageArray:
    """One class as RGBA [128, 128, 4] with a transparent outside."""
    pad = _Pad()
    if class_id in _LIMITS:
        pad.disc(_RED, _WHITE)
        pad.text(_LIMITS[class_id], _BLACK)
    elif class_id in _WARNINGS:
        pad.polygon([(50, 6), (97, 90), (3, 90)], _RED, 12, _WHITE)
        pad.lines(_WARNINGS[class_id], _BLACK)
        if class_id == 26:
            for y, colour in ((40, _RED), (60, _YELLOW), (80, (30, 150, 60))):
                pad.dot((50, y), colour)
    elif class_id in _ARROWS:
        pad.disc(_BLUE, _BLUE)
        pad.lines(_ARROWS[class_id], _WHITE, 9)
    else:
        _draw_other(pad, class_id)
    return pad.pixels


def _draw_other(pad: "_Pad", class_id: int) -> None:
    if class_id in (9, 10):
        pad.disc(_RED, _WHITE)
        pad.lines(_CARS if class_id == 9 else _TRUCKS, _BLACK, 12)
    elif class_id == 12:
        pad.polygon([(50, 3), (97, 50), (50, 97), (3, 50)], _WHITE, 12, _YELLOW)
    elif class_id == 13:
        pad.polygon([(3, 10), (97, 10), (50, 94)], _RED, 12, _WHITE)
    elif class_id == 14:
        corners = [(31, 3), (69, 3), (97, 31), (97, 69), (69, 97), (31, 97), (3, 69), (3, 31)]
        pad.polygon(corners, _WHITE, 4, _RED)
        pad.text("STOP", _WHITE)
    elif class_id in (15, 16):
        pad.disc(_RED, _WHITE)
        pad.lines(
            [] if class_id == 15 else [[(25, 45), (58, 45), (58, 65), (25, 65)], [(64, 62), (75, 62)]], _BLACK, 10
        )
    elif class_id == 17:
        pad.disc(_RED, _RED)
        pad.lines([[(22, 50), (78, 50)]], _WHITE, 18)
    else:
        pad.disc(_WHITE, _WHITE)
        if class_id == 6:
            pad.text("80", _GREY)
        elif class_id in (41, 42):
            pad.lines(_CARS if class_id == 41 else _TRUCKS, _GREY, 12)
        pad.lines([[(80, 15), (15, 80)], [(87, 22), (22, 87)]], _BLACK, 4)


class _Pad:
    """A canvas addressed on a 100 x 100 grid."""

    def __init__(self) -> None:
        self.pixels: ImageArray = np.zeros((_CANVAS, _CANVAS, 4), dtype=np.uint8)

    def disc(self, rim: tuple[int, int, int], face: tuple[int, int, int]) -> None:
        import cv2

        cv2.circle(self.pixels, self._at((50, 50)), self._size(48), (*rim, 255), -1, cv2.LINE_AA)
        cv2.circle(self.pixels, self._at((50, 50)), self._size(36), (*face, 255), -1, cv2.LINE_AA)

    def polygon(self, corners: list[_Point], rim: Any, width: int, face: Any) -> None:
        import cv2

        cv2.fillPoly(self.pixels, [self._path(corners)], (*rim, 255), cv2.LINE_AA)
        centre = np.mean(corners, axis=0)
        inner = [centre + (np.array(corner) - centre) * (1 - width / 30) for corner in corners]
        cv2.fillPoly(self.pixels, [self._path(inner)], (*face, 255), cv2.LINE_AA)

    def lines(self, polylines: list[list[_Point]], colour: tuple[int, int, int], width: int = 7) -> None:
        import cv2

        for polyline in polylines:
            path = self._path(polyline)
            cv2.polylines(self.pixels, [path], False, (*colour, 255), self._size(width), cv2.LINE_AA)

    def dot(self, centre: _Point, colour: tuple[int, int, int]) -> None:
        import cv2

        cv2.circle(self.pixels, self._at(centre), self._size(8), (*colour, 255), -1, cv2.LINE_AA)

    def text(self, text: str, colour: tuple[int, int, int]) -> None:
        import cv2

        scale = 1.9 if len(text) == 2 else 1.25
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 6)
        origin = ((_CANVAS - width) // 2, (_CANVAS + height) // 2)
        cv2.putText(self.pixels, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (*colour, 255), 6, cv2.LINE_AA)

    @staticmethod
    def _size(length: float) -> int:
        return round(length * _CANVAS / 100)

    def _at(self, point: _Point) -> _Point:
        return self._size(point[0]), self._size(point[1])

    def _path(self, points: Any) -> npt.NDArray[np.int32]:
        return np.round(np.asarray(points, dtype=np.float64) * _CANVAS / 100).astype(np.int32)
