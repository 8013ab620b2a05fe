"""Made traffic clips: drawn vehicles on drawn roads, seen by a fixed camera from above or aslant, with their truth.

Everything that makes background subtraction hard is in them, in seeded strength: shadows of vehicles and of clouds, an
exposure that reacts to bright vehicles, light that drifts or steps, sensor noise, a shaking mast, compression. No
picture and no figure of a real clip went into them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from roadloop_models.counting.lines import MIDDLE, Line
from roadloop_models.preprocess import ImageArray
from roadloop_models.tasks.made_light import FloatImage, Lens, Weather, cloud
from roadloop_models.tasks.made_vehicles import Points, Vehicle, draw_vehicle

_LEAST_INSIDE, _LEAST_PICTURE, _LEAST_SEEN = 0.1, 0.015, 0.3
"""A vehicle is clear where this share of it is inside the picture, or it fills this share of the picture, and others
leave this share of it to be seen."""
_SHIFT = 4
"""Fraction bits of the corners that OpenCV is given."""


@dataclass(frozen=True)
class MadeVehicle:
    """Where one vehicle is in one frame."""

    number: int
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2, pixels, inside the picture."""
    clear: bool
    """Whether enough of it is to be seen; what is not clear should be neither asked for nor held against anybody."""


@dataclass(frozen=True)
class MadeFrame:
    """One frame: uint8 RGB [h, w, 3]."""

    image: ImageArray
    empty: Callable[[], ImageArray]
    """Draws the same without any vehicle, noise or compression."""
    vehicles: tuple[MadeVehicle, ...]


@dataclass(frozen=True)
class _Camera:
    """A pinhole above the road: it maps metres to pixels."""

    rotation: Points
    position: Points
    focal_px: float
    width: int
    height: int

    def project(self, points: Points) -> tuple[Points, Points]:
        """World [n, 3] -> (pixels [n, 2], distance along the axis [n])."""
        seen = (points - self.position) @ self.rotation.T
        depth = np.maximum(seen[:, 2], 0.5)
        pixels = seen[:, :2] / depth[:, None] * self.focal_px + (self.width / 2, self.height / 2)
        return pixels, seen[:, 2]


def _camera(generator: np.random.Generator, width: int, height: int) -> tuple[_Camera, float]:
    """(a camera, the share of the shorter side that a car in the middle fills)."""
    share = float(np.exp(generator.uniform(np.log(0.13), np.log(0.75))))
    pitch = np.deg2rad(generator.uniform(55, 90) if generator.random() < 0.6 else generator.uniform(25, 55))
    focal_px = max(width, height) * generator.uniform(0.7, 2.0)
    distance_m = focal_px * 4.5 / (share * min(width, height))
    roll = np.deg2rad(generator.normal(0, 3))
    forward = np.array([0.0, np.cos(pitch), -np.sin(pitch)])
    right = np.array([1.0, 0.0, 0.0])
    down = np.cross(forward, right)
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    return _Camera(np.stack([right, down, forward]), -forward * distance_m, focal_px, width, height), share


@dataclass
class _Lane:
    """Vehicles that follow each other on one straight line; they never meet, for all keep the lane's pace."""

    origin: Points
    heading: Points
    vehicles: list[tuple[int, Vehicle, float, float]] = field(default_factory=list)
    """(number, vehicle, place along the lane at the start, place across it; m)."""
    travelled_m: Points = field(default_factory=lambda: np.zeros(0))
    """How far all have come, by frame."""


class MadeClip:
    """One seeded clip; iterating draws its frames, the same each time."""

    def __init__(self, seed: int, frames: int = 100, width: int = 384, height: int = 216) -> None:
        self.frames, self.width, self.height = frames, width, height
        self._seed = seed
        generator = np.random.Generator(np.random.PCG64([seed, 1]))
        self._camera, share = _camera(generator, width, height)
        self._ground = _ground(generator, self._camera, share)
        self._lanes = _lanes(generator, self._camera, share, frames)
        self._sun = np.array([*generator.uniform(-1.2, 1.2, 2), 1.0])
        self._shade = float(generator.uniform(0.25, 0.75)) if generator.random() < 0.6 else 0.0
        self._contact = float(generator.uniform(0.2, 0.6))
        self._mirror = cloud(generator, height, width, 5)

    @property
    def line(self) -> Line:
        """Across the traffic of the first lane, through the middle of the picture."""
        lane = self._lanes[0]
        (x1, y1), (x2, y2) = self._camera.project(np.stack([lane.origin - lane.heading, lane.origin + lane.heading]))[0]
        if abs(y2 - y1) >= abs(x2 - x1):
            return MIDDLE
        return Line("upright", (0.5, 0.0), (0.5, 1.0))

    def __iter__(self) -> Iterator[MadeFrame]:
        generator = np.random.Generator(np.random.PCG64([self._seed, 2]))
        lens = Lens(generator, self.width, self.height)
        weather = Weather(generator, self.width, self.height)
        for index in range(self.frames):
            light = weather.next(generator)
            empty = self._ground * light
            traffic = empty.copy()
            vehicles = self._draw(traffic, light, index)
            exposure = lens.expose(traffic, generator)
            image = lens.compressed(exposure(traffic), generator)
            shown = _moved(vehicles, lens.shift_px, self.width, self.height)
            yield MadeFrame(image, partial(exposure, empty), shown)

    def _draw(self, picture: FloatImage, light: FloatImage, index: int) -> list[MadeVehicle]:
        """Draw shadows, then vehicles from far to near; returns those that can be seen."""
        placed = []
        for lane in self._lanes:
            across = np.array([-lane.heading[1], lane.heading[0], 0.0])
            for number, vehicle, along, aside in lane.vehicles:
                middle = lane.origin + lane.heading * (along + lane.travelled_m[index]) + across * aside
                pixels, depth = self._camera.project(middle[None])
                reach = (vehicle.length_m + vehicle.height_m) * self._camera.focal_px / max(depth[0], 1.0)
                beside = np.maximum(-pixels[0], pixels[0] - (self.width, self.height)).max()
                if depth[0] > 1.0 and beside < reach:
                    placed.append((depth[0], number, vehicle, middle, np.stack([lane.heading, across, (0, 0, 1)])))
        placed.sort(key=lambda entry: -entry[0])
        self._draw_shadows(picture, [(vehicle, middle, axes) for _, _, vehicle, middle, axes in placed])
        owners = np.zeros((self.height, self.width), np.uint8)
        shapes = []
        for rank, (_, number, vehicle, middle, axes) in enumerate(placed, 1):
            owner = rank % 250 + 1
            outline = self._draw_vehicle(
                picture, owners, owner=owner, vehicle=vehicle, middle=middle, axes=axes, light=light
            )
            shapes.append((number, owner, outline))
        found = []
        for number, owner, outline in shapes:
            (x1, y1), (x2, y2) = outline.min(axis=0), outline.max(axis=0)
            left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, self.width), min(y2, self.height)
            if right - left > 1 and bottom - top > 1:
                clear = self._is_clear(outline, int((owners == owner).sum()))
                found.append(MadeVehicle(number, (left, top, right, bottom), clear))
        return found

    def _is_clear(self, outline: Points, visible: int) -> bool:
        import cv2

        hull = cv2.convexHull(outline.astype(np.float32))
        inside = np.zeros((self.height, self.width), np.uint8)
        cv2.fillConvexPoly(inside, np.round(hull).astype(np.int32), 1)
        size = cv2.countNonZero(inside)
        entered = size > min(_LEAST_INSIDE * cv2.contourArea(hull), _LEAST_PICTURE * inside.size)
        return bool(entered and visible > _LEAST_SEEN * size)

    def _draw_shadows(self, picture: FloatImage, placed: list[tuple[Vehicle, Points, Points]]) -> None:
        import cv2

        scale = 2
        mask = np.zeros((self.height // scale, self.width // scale), np.float32)
        for vehicle, middle, axes in placed:
            corners = np.concatenate([face.corners for face in vehicle.faces])
            for strength, direction in ((self._shade, self._sun), (self._contact, np.array([0.0, 0.0, 1.0]))):
                if strength:
                    world = middle + corners @ axes
                    world = world - direction * world[:, 2:]
                    hull = cv2.convexHull((self._camera.project(world)[0] / scale).astype(np.float32))
                    layer = np.zeros_like(mask)
                    cv2.fillConvexPoly(layer, np.round(hull).astype(np.int32), strength, cv2.LINE_AA)
                    np.maximum(mask, layer, out=mask)
        if placed:
            mask = cv2.GaussianBlur(mask, (0, 0), 0.008 * self.width / scale + 0.5)
            picture *= 1.0 - cv2.resize(mask, (self.width, self.height))[:, :, None]

    def _draw_vehicle(
        self,
        picture: FloatImage,
        owners: ImageArray,
        *,
        owner: int,
        vehicle: Vehicle,
        middle: Points,
        axes: Points,
        light: FloatImage,
    ) -> Points:
        """Draw one; returns its outline [n, 2]."""
        import cv2

        corners = [middle + face.corners @ axes for face in vehicle.faces]
        cuts = np.cumsum([len(points) for points in corners])[:-1]
        pixels, depth = self._camera.project(np.concatenate(corners))
        outline = np.asarray(pixels)
        (x1, y1), (x2, y2) = np.floor(outline.min(axis=0)).astype(int) - 2, np.ceil(outline.max(axis=0)).astype(int) + 3
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, self.width), min(y2, self.height)
        if x1 >= x2 or y1 >= y2:
            return outline
        part, owned = np.ascontiguousarray(picture[y1:y2, x1:x2]), np.ascontiguousarray(owners[y1:y2, x1:x2])
        shine = light[y1:y2, x1:x2].mean()
        sun = self._sun / np.linalg.norm(self._sun)
        order = np.argsort([-piece.mean() for piece in np.split(depth, cuts)], kind="stable")
        flat = np.split(pixels, cuts)
        for index in order:
            face, world = vehicle.faces[index], corners[index]
            normal = _normal(world)
            if normal @ (self._camera.position - world[0]) < 0:
                normal = -normal
            shading = 0.62 + 0.3 * max(0.0, float(normal @ sun)) * (self._shade > 0) + 0.25 * max(0.0, normal[2])
            reflected = 1.0 + face.gloss * self._mirror[(int(index) * 37) % self.height, (int(index) * 61) % self.width]
            polygon = np.round((flat[index] - (x1, y1)) * (1 << _SHIFT)).astype(np.int32)
            cv2.fillPoly(part, [polygon], (face.colour * shading * reflected * shine).tolist(), cv2.LINE_AA, _SHIFT)
            cv2.fillPoly(owned, [polygon], owner, cv2.LINE_8, _SHIFT)
        part[owned == owner] *= (1.0 + 0.15 * self._mirror[y1:y2, x1:x2][owned == owner])[:, None]
        picture[y1:y2, x1:x2], owners[y1:y2, x1:x2] = part, owned
        return outline


def _ground(generator: np.random.Generator, camera: _Camera, share: float) -> FloatImage:
    """The empty scene: asphalt, verges, markings, stains; float32 RGB [h, w, 3], grey levels in plain light."""
    import cv2

    height, width = camera.height, camera.width
    asphalt = generator.uniform(45, 150)
    tint = 1.0 + generator.normal(0, 0.03, 3)
    texture = cloud(generator, height, width, 4) * generator.uniform(3, 14)
    texture += cloud(generator, height, width, 30) * generator.uniform(1, 8)
    texture += generator.normal(0, generator.uniform(0.5, 6), (height, width)).astype(np.float32)
    ground = ((asphalt + texture)[:, :, None] * tint).astype(np.float32)
    reach = 4.5 / share * 3
    if generator.random() < 0.6:  # a verge of grass, earth, paving or water beside the road
        colour = np.array([(70, 95, 50), (120, 105, 80), (150, 150, 148), (50, 70, 90)][generator.integers(4)])
        side, edge = generator.choice([-1.0, 1.0]), generator.uniform(0.25, 1.0) * 4.5 / share
        strip = np.array([(-reach, edge, 0), (reach, edge, 0), (reach, reach, 0), (-reach, reach, 0)])
        turned = _turn(strip * (1, side, 1), generator.uniform(0, 2 * np.pi))
        mask = np.zeros((height, width), np.float32)
        _fill(mask, camera, turned, 1.0)
        field_ = colour + (cloud(generator, height, width, 12) * 18)[:, :, None]
        ground = ground * (1 - mask[:, :, None]) + (field_ * mask[:, :, None]).astype(np.float32)
    for _ in range(int(generator.integers(0, 7))):  # markings, kerbs, patches, cracks
        paint = [(225, 225, 220), (210, 180, 60), (35, 35, 38), (110, 110, 112)][generator.integers(4)]
        centre, wide = generator.uniform(-0.8, 0.8, 2) * 4.5 / share, generator.uniform(0.06, 0.35)
        angle, dashed = generator.uniform(0, np.pi), generator.random() < 0.5
        for start in np.arange(-reach, reach, 4.0).tolist() if dashed else [-reach]:
            stop = start + (2.0 if dashed else 2 * reach)
            strip = np.array([(start, -wide, 0), (stop, -wide, 0), (stop, wide, 0), (start, wide, 0)]) / (1, 2, 1)
            _fill(ground, camera, _turn(strip, angle) + np.array([*centre, 0]), paint)
    for _ in range(int(generator.integers(0, 40))):  # stains and stones
        at = (int(generator.integers(width)), int(generator.integers(height)))
        level = float(generator.uniform(20, 235))
        cv2.circle(ground, at, int(generator.integers(0, max(2, width // 120))), (level,) * 3, -1, cv2.LINE_AA)
    return np.clip(ground, 8, 250).astype(np.float32)


def _lanes(generator: np.random.Generator, camera: _Camera, share: float, frames: int) -> list[_Lane]:
    """One to four lanes through the middle of the picture, in one direction or both, sometimes crossed by another."""
    picture_m = 4.5 / share * max(camera.width, camera.height) / min(camera.width, camera.height)
    angles = [generator.uniform(0, 2 * np.pi) if generator.random() < 0.6 else generator.choice([0.5, 1.5]) * np.pi]
    if generator.random() < 0.15:
        angles.append(angles[0] + np.pi / 2)
    lanes, number = [], 0
    quiet = generator.uniform(0.3, 3.0)
    for angle in angles:
        count = int(generator.integers(1, 5))
        both = generator.random() < 0.7
        for index in range(count):
            aside = (index - (count - 1) / 2) * generator.uniform(3.0, 3.8) + generator.normal(0, 0.3)
            direction = angle + (np.pi if both and index % 2 else 0.0)
            heading = np.array([np.cos(direction), np.sin(direction), 0.0])
            origin = np.array([-np.sin(angle), np.cos(angle), 0.0]) * aside
            lane = _Lane(origin, heading, travelled_m=_pace(generator, picture_m, frames))
            place = picture_m
            while place > -lane.travelled_m[-1] - picture_m:
                vehicle = draw_vehicle(generator)
                place -= vehicle.length_m / 2
                lane.vehicles.append((number, vehicle, place, float(generator.normal(0, 0.2))))
                number += 1
                place -= vehicle.length_m / 2 + generator.uniform(1.2, 4.0) + generator.exponential(quiet * picture_m)
            lanes.append(lane)
    return lanes


def _pace(generator: np.random.Generator, picture_m: float, frames: int) -> Points:
    """How far a lane has come at each frame: 0.5 to 5 % of the picture a frame, sometimes with a halt."""
    speed = np.full(frames, picture_m * float(np.exp(generator.uniform(np.log(0.006), np.log(0.05)))))
    speed *= 1.0 + 0.15 * np.sin(np.arange(frames) / generator.uniform(10, 60) + generator.uniform(0, 6))
    if generator.random() < 0.15:
        start, length = int(generator.integers(frames)), int(generator.integers(10, 60))
        brake = np.ones(frames)
        brake[start : start + length] = 0.0
        speed *= np.convolve(np.pad(brake, 4, mode="edge"), np.full(9, 1 / 9), mode="valid")
    return np.cumsum(speed)


def _normal(corners: Points) -> Points:
    (ax, ay, az), (bx, by, bz) = corners[1] - corners[0], corners[2] - corners[1]
    normal = np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
    unit: Points = normal / (np.sqrt(normal @ normal) + 1e-9)
    return unit


def _turn(points: Points, angle: float) -> Points:
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: Points = points @ np.array([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return turned


def _fill(picture: FloatImage, camera: _Camera, world: Points, colour: object) -> None:
    import cv2

    pixels, depth = camera.project(world)
    if (depth > 1.0).all() and np.abs(pixels).max() < 1e5:
        cv2.fillPoly(picture, [np.round(pixels * 16).astype(np.int32)], colour, cv2.LINE_AA, _SHIFT)


def _moved(vehicles: list[MadeVehicle], shift: Points, width: int, height: int) -> tuple[MadeVehicle, ...]:
    limits = np.array([width, height] * 2, np.float64)
    return tuple(
        MadeVehicle(v.number, tuple(np.clip(np.array(v.box) + np.tile(shift, 2), 0.0, limits).tolist()), v.clear)
        for v in vehicles
    )
