"""Vehicles as coloured polygons in space, for made traffic: cars, vans, trucks and buses of seeded shape and colour."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Colour = npt.NDArray[np.float64]
"""RGB, 0 to 255."""

_PAINTS = (
    (232, 232, 228), (238, 238, 240), (190, 194, 198), (150, 155, 160), (105, 108, 112), (60, 62, 66), (28, 28, 31),
    (18, 18, 20), (165, 24, 36), (120, 16, 24), (30, 60, 140), (18, 34, 80), (88, 120, 165), (32, 78, 52),
    (196, 180, 148), (112, 82, 58), (220, 178, 32), (214, 96, 28), (170, 205, 205), (72, 92, 96),
)  # fmt: skip
_RUBBER = np.array((22.0, 22.0, 24.0))


@dataclass(frozen=True)
class Face:
    """One flat polygon: corners [n, 3] in metres (x forward, y left, z up; origin on the ground below the middle)."""

    corners: Points
    colour: Colour
    gloss: float
    """How much of the surroundings it mirrors, 0 to 1."""


@dataclass(frozen=True)
class Vehicle:
    """One body."""

    length_m: float
    width_m: float
    height_m: float
    faces: tuple[Face, ...]


def draw_vehicle(generator: np.random.Generator) -> Vehicle:
    """A vehicle of seeded kind, size and paint: three quarters of them cars."""
    paint = np.clip(np.array(_PAINTS[generator.integers(len(_PAINTS))], np.float64) + generator.normal(0, 8, 3), 5, 250)
    level = generator.uniform(15, 70) + generator.uniform(0, 120) * generator.random() ** 2
    glass = min(level, 230.0) * np.array((0.94, 1.0, 1.04))
    kind = generator.random()
    if kind < 0.75:
        return _car(generator, paint, glass)
    return _van(generator, paint, glass) if kind < 0.87 else _truck(generator, paint, glass)


def _car(generator: np.random.Generator, paint: Colour, glass: Colour) -> Vehicle:
    length, width, height = generator.uniform(3.7, 5.1), generator.uniform(1.65, 1.95), generator.uniform(1.35, 1.75)
    front, back, side = length / 2, -length / 2, width / 2
    waist = height * generator.uniform(0.52, 0.6)
    faces = _box(front, back, side, low=0.22, high=waist, paint=paint, round_m=generator.uniform(0.15, 0.45))
    estate = generator.random() < 0.5
    base = (generator.uniform(0.16, 0.26) * length, (-0.46 if estate else generator.uniform(-0.36, -0.3)) * length)
    roof = (base[0] - generator.uniform(0.35, 0.8), base[1] + generator.uniform(0.15, 0.7))
    faces += _cabin(base, roof, side=side, waist=waist, height=height, paint=paint, glass=glass)
    if generator.random() < 0.3:  # a sunroof
        low, high = roof[1] + 0.25 * (roof[0] - roof[1]), roof[1] + 0.85 * (roof[0] - roof[1])
        faces.append(_level(low, high, 0.5 * side, height + 0.01, glass * 0.6))
    faces += _fittings(generator, front, back, side=side, waist=waist, mirror_x=base[0])
    return Vehicle(length, width, height, tuple(faces))


def _van(generator: np.random.Generator, paint: Colour, glass: Colour) -> Vehicle:
    length, width, height = generator.uniform(4.6, 6.2), generator.uniform(1.85, 2.1), generator.uniform(1.9, 2.7)
    front, back, side = length / 2, -length / 2, width / 2
    faces = _box(front, back, side, low=0.25, high=1.05, paint=paint, round_m=0.2)
    base, roof = (front - 0.6, back), (front - 1.4, back + 0.1)
    faces += _cabin(base, roof, side=side, waist=1.05, height=height, paint=paint, glass=glass, windows=0.35)
    faces += _fittings(generator, front, back, side=side, waist=1.05, mirror_x=front - 0.9)
    return Vehicle(length, width, height, tuple(faces))


def _truck(generator: np.random.Generator, paint: Colour, glass: Colour) -> Vehicle:
    """A lorry with its load in another colour, or a bus in one."""
    length, width, height = generator.uniform(6.0, 12.0), generator.uniform(2.2, 2.55), generator.uniform(2.6, 3.6)
    front, back, side = length / 2, -length / 2, width / 2
    if generator.random() < 0.4:
        faces = _box(front, back, side, low=0.3, high=height, paint=paint, round_m=0.15)
        for sign in (1, -1):
            band = [(front - 0.3, height * 0.5), (back + 0.4, height * 0.5), (back + 0.4, height * 0.8)]
            band.append((front - 0.3, height * 0.8))
            faces.append(Face(np.array([(x, sign * (side + 0.01), z) for x, z in band]), glass, 0.5))
        faces.append(_level(-0.2 * length, 0.0, 0.5 * side, height + 0.05, paint * 0.8))
    else:
        cab = front - generator.uniform(1.6, 2.2)
        load = np.array(_PAINTS[generator.integers(len(_PAINTS))], np.float64)
        faces = _box(front, cab, side, low=0.4, high=height * 0.75, paint=paint, round_m=0.1)
        shield = [(front + 0.01, -0.85 * side, height * 0.42), (front + 0.01, 0.85 * side, height * 0.42)]
        shield += [(front + 0.01, 0.85 * side, height * 0.68), (front + 0.01, -0.85 * side, height * 0.68)]
        faces.append(Face(np.array(shield), glass, 0.5))
        faces += _box(cab - 0.3, back, side, low=0.9, high=height, paint=load, round_m=0.0)
        faces.append(_level(back, cab, 0.4 * side, 0.6, _RUBBER))
    faces += _fittings(generator, front, back, side=side, waist=1.0, mirror_x=front - 0.5)
    return Vehicle(length, width, height, tuple(faces))


def _outline(front: float, back: float, side: float, round_m: float) -> Points:
    """The footprint counter-clockwise, its corners cut."""
    cut, wide = round_m, min(round_m, 0.6 * side)
    points = [(front - cut, side), (back + cut, side), (back, side - wide), (back, wide - side), (back + cut, -side)]
    points += [(front - cut, -side), (front, wide - side), (front, side - wide)]
    return np.array(points)


def _box(
    front: float, back: float, side: float, *, low: float, high: float, paint: Colour, round_m: float
) -> list[Face]:
    outline = _outline(front, back, side, round_m)
    faces = []
    for (x1, y1), (x2, y2) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if abs(x1 - x2) + abs(y1 - y2) > 1e-6:
            faces.append(Face(np.array([(x1, y1, low), (x2, y2, low), (x2, y2, high), (x1, y1, high)]), paint, 0.25))
    faces.append(Face(np.column_stack([outline, np.full(len(outline), high)]), paint, 0.25))
    return faces


def _cabin(
    base: tuple[float, float],
    roof: tuple[float, float],
    *,
    side: float,
    waist: float,
    height: float,
    paint: Colour,
    glass: Colour,
    windows: float = 1.0,
) -> list[Face]:
    """What stands on the body: glass all round (on the sides only the front `windows` of it), the roof painted."""
    inner, outer = 0.78 * side, 0.95 * side
    b1, b2, r1, r2 = base[0], base[1], roof[0], roof[1]
    shield = np.array([(b1, -outer, waist), (b1, outer, waist), (r1, inner, height), (r1, -inner, height)])
    rear = np.array([(b2, outer, waist), (b2, -outer, waist), (r2, -inner, height), (r2, inner, height)])
    faces = [Face(shield, glass, 0.5), Face(rear, glass if windows == 1.0 else paint, 0.5)]
    for sign in (1.0, -1.0):
        wall = np.array([(b2, outer, waist), (r2, inner, height), (r1, inner, height), (b1, outer, waist)])
        faces.append(Face(wall * (1.0, sign, 1.0), paint, 0.25))
        middle = wall.mean(axis=0)
        pane = middle + (wall - middle) * 0.86 + np.array((0.0, 0.01, 0.0))
        if windows < 1.0:
            pane[:2, 0] = pane[2:, 0] - windows * (pane[2:, 0] - pane[:2, 0])
        faces.append(Face(pane * (1.0, sign, 1.0), glass, 0.5))
    top = np.array([(r1, inner, height), (r2, inner, height), (r2, -inner, height), (r1, -inner, height)])
    return [*faces, Face(top, paint, 0.3)]


def _level(low_x: float, high_x: float, side: float, z: float, colour: Colour) -> Face:
    return Face(np.array([(high_x, side, z), (low_x, side, z), (low_x, -side, z), (high_x, -side, z)]), colour, 0.2)


def _fittings(
    generator: np.random.Generator, front: float, back: float, *, side: float, waist: float, mirror_x: float
) -> list[Face]:
    """Lights, plates, wheels and mirrors."""
    lit = generator.random() < 0.3
    lamp = np.array((250.0, 248.0, 235.0)) if lit else np.array((190.0, 192.0, 195.0))
    tail = np.array((235.0, 40.0, 40.0)) if lit else np.array((130.0, 20.0, 24.0))
    faces = []
    for sign in (1.0, -1.0):
        for x, colour in ((front + 0.01, lamp), (back - 0.01, tail)):
            box = [(x, 0.55 * side, 0.6 * waist), (x, 0.9 * side, 0.6 * waist), (x, 0.9 * side, 0.9 * waist)]
            faces.append(Face(np.array([*box, (x, 0.55 * side, 0.9 * waist)]) * (1.0, sign, 1.0), colour, 0.0))
        for x in (front - 0.2 * (front - back), back + 0.2 * (front - back)):
            out, high = side + 0.01, 0.6
            tread = [(x - 0.32, out, 0.0), (x + 0.32, out, 0.0), (x + 0.32, out, high), (x - 0.32, out, high)]
            faces.append(Face(np.array(tread) * (1.0, sign, 1.0), _RUBBER, 0.0))
        mirror = np.array([(0.0, 0.0, 0.0), (0.0, 0.22, 0.0), (0.2, 0.2, 0.1), (0.2, 0.0, 0.1)])
        faces.append(Face((mirror + np.array((mirror_x, side, waist))) * (1.0, sign, 1.0), _RUBBER + 20.0, 0.1))
    plate = [(0.28, 0.55 * waist), (-0.28, 0.55 * waist), (-0.28, 0.7 * waist), (0.28, 0.7 * waist)]
    faces.append(Face(np.array([(back - 0.02, y, z) for y, z in plate]), np.array((225.0, 222.0, 205.0)), 0.0))
    return faces
