"""Seeded variation of sign images: pose, light, colour, sharpness, noise, cover. Batches of float32 [n, 3, 32, 32]."""

import torch
import torch.nn.functional as F

from roadloop_models.tasks.sign_classes import MIRROR_PAIRS, MIRROR_SELF, SIGN_LABELS

_TURN_RAD = 0.3
_SHIFT = 0.15
_SHEAR = 0.15
_COVER_SHARE = 0.5
_DARKEST = 10.0
"""Mean grey level below which an image is not darkened further."""


def mirror_classes() -> torch.Tensor:
    """Class id -> class id of its mirror image, -1 where that is no sign: int64 [43]."""
    classes = torch.full((len(SIGN_LABELS),), -1, dtype=torch.int64)
    for class_id in MIRROR_SELF:
        classes[class_id] = class_id
    for left, right in MIRROR_PAIRS:
        classes[left], classes[right] = right, left
    return classes


def vary(
    images: torch.Tensor, labels: torch.Tensor, mirror: torch.Tensor, clip: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """(uint8 [n, 3, 32, 32], int64 [n]) -> (standardized float32 of the same shape, labels after mirroring)."""
    mirrored = (mirror[labels] >= 0) & (torch.rand(len(labels), generator=generator) < 0.5)
    labels = torch.where(mirrored, mirror[labels], labels)
    values = _pose(images.float(), mirrored, generator)
    values = _light(values / 255.0, generator) * 255.0
    values = _dusk(_smear(values, generator), generator)
    values = standardize(_sharpness(values, generator), clip)
    # Noise in units of the image's own deviation: in grey levels it would bury the darkest signs.
    values = values + torch.randn(values.shape, generator=generator) * _uniform(len(values), 0.0, 0.15, generator)
    return _cover(values.clamp(-clip, clip), generator), labels


def standardize(values: torch.Tensor, clip: float) -> torch.Tensor:
    """`preprocess.ImageStandardize` for a batch; a test holds the two together."""
    values = values - values.mean((1, 2, 3), keepdim=True)
    deviation = values.square().mean((1, 2, 3), keepdim=True).sqrt()
    return (values / deviation.clamp(min=1.0)).clamp(-clip, clip)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(count, generator=generator) * (high - low) + low).view(-1, 1, 1, 1)


def _pose(values: torch.Tensor, mirrored: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count = len(values)
    turn, scale, aspect, shear = (
        _uniform(count, low, high, generator).view(-1)
        for low, high in ((-_TURN_RAD, _TURN_RAD), (0.8, 1.2), (0.9, 1.1), (-_SHEAR, _SHEAR))
    )
    side = torch.where(mirrored, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0] = scale * aspect * turn.cos() * side
    affine[:, 0, 1] = shear - scale * turn.sin()
    affine[:, 1, 0] = scale * turn.sin() * side
    affine[:, 1, 1] = scale / aspect * turn.cos()
    affine[:, :, 2] = torch.rand(count, 2, generator=generator) * (2 * _SHIFT) - _SHIFT
    grid = F.affine_grid(affine, list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)


def _light(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Colour cast, gamma, another background, and light that falls off to one side; values 0 to 1."""
    count = len(values)
    cast = torch.exp(torch.rand(count, 3, 1, 1, generator=generator) * 0.3 - 0.15)
    values = (values * cast).clamp(1e-3, 1.0) ** _uniform(count, -0.6, 0.6, generator).exp()
    values = _background(values, generator)
    ramp = torch.linspace(-1.0, 1.0, values.shape[-1])
    across = _uniform(count, -0.35, 0.35, generator) * ramp.view(1, 1, 1, -1)
    down = _uniform(count, -0.35, 0.35, generator) * ramp.view(1, 1, -1, 1)
    return values * (1.0 + across + down).clamp(min=0.2)


def _background(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A third get a paler, often much brighter surrounding: against the sky a sign is dark whatever its colours."""
    count = len(values)
    ramp = torch.linspace(-1.0, 1.0, values.shape[-1])
    radius = (ramp.view(1, 1, 1, -1) ** 2 + ramp.view(1, 1, -1, 1) ** 2).sqrt()
    outside = torch.sigmoid((radius - _uniform(count, 0.75, 1.0, generator)) * 20.0)
    outside = outside * (_uniform(count, 0.0, 1.0, generator) < 0.35)
    paler = values * _uniform(count, 0.2, 1.0, generator) + _uniform(count, 0.0, 0.8, generator)
    return values * (1.0 - outside) + paler.clamp(0.0, 1.0) * outside


def _smear(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A tenth is smeared over three pixels or five, across or down: the vehicle moved while the shutter was open."""
    count, channels = values.shape[:2]
    for size, axis in ((3, 0), (5, 0), (3, 1), (5, 1)):
        chosen = torch.rand(count, generator=generator) < 0.025
        shape = (1, size) if axis == 0 else (size, 1)
        padding = (size // 2, size // 2, 0, 0) if axis == 0 else (0, 0, size // 2, size // 2)
        kernel = torch.full((channels, 1, *shape), 1.0 / size)
        smeared = F.conv2d(F.pad(values[chosen], padding, mode="replicate"), kernel, groups=channels)
        values = values.clone()
        values[chosen] = smeared
    return values


def _dusk(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A fifth is nearly dark, grey levels 0 to 255: few levels are left, and the sensor's noise is among them."""
    count = len(values)
    least = _DARKEST / values.mean((1, 2, 3), keepdim=True).clamp(min=_DARKEST)
    dark = values * torch.maximum(_uniform(count, -3.0, 0.0, generator).exp(), least)
    dark = dark + torch.randn(values.shape, generator=generator) * _uniform(count, 0.0, 1.5, generator)
    chosen = _uniform(count, 0.0, 1.0, generator) < 0.2
    return torch.where(chosen, dark.round().clamp(0.0, 255.0), values)


def _sharpness(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A quarter softened or sharpened, a fifth at half the resolution, as a sign far away is."""
    count = len(values)
    soft = F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)
    coarse = F.interpolate(F.avg_pool2d(values, 2), scale_factor=2, mode="bilinear", align_corners=False)
    kind = _uniform(count, 0.0, 1.0, generator)
    amount = torch.where(kind < 0.25, _uniform(count, -0.6, 1.0, generator), 0.0)
    return torch.where(kind > 0.8, coarse, values + amount * (soft - values))


def _cover(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Half the images lose a rectangle of 4 to 12 pixels a side to one colour."""
    count, _, height, width = values.shape
    rows, columns = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    inside = _uniform(count, 0.0, 1.0, generator) < _COVER_SHARE
    for axis, length in ((rows, height), (columns, width)):
        size = _uniform(count, 4.0, 13.0, generator).floor()
        start = (_uniform(count, 0.0, 1.0, generator) * (length - size + 1)).floor()
        inside = inside & (axis >= start) & (axis < start + size)
    colour = torch.randn(count, 3, 1, 1, generator=generator)
    return torch.where(inside, colour, values)
