"""Training standardizes batches in torch, vehicles one image in numpy: the two must be the same function."""

import numpy as np
import pytest

from roadloop_models.preprocess import ImageStandardize
from roadloop_models.tasks.made_signs import made_signs

torch = pytest.importorskip("torch")


def test_a_batch_in_torch_is_what_the_vehicle_computes() -> None:
    from roadloop_cloud.training.augment import standardize

    images = made_signs(1, 1, seed=8).images
    images[0] = 7  # flat: deviation 0
    images[1] //= 60  # nearly flat: deviation below one grey level
    batch = standardize(torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)), 3.0)
    one_by_one = np.concatenate([ImageStandardize(clip=3.0)(image)[0] for image in images])
    np.testing.assert_allclose(batch.permute(0, 2, 3, 1).numpy(), one_by_one, atol=1e-4)


def test_a_mirror_of_a_mirror_is_the_same_class() -> None:
    from roadloop_cloud.training.augment import mirror_classes

    mirror = mirror_classes()
    for class_id, image_class in enumerate(mirror.tolist()):
        assert image_class == -1 or mirror[image_class] == class_id


def test_variation_depends_on_the_seed_alone_and_keeps_the_range() -> None:
    from roadloop_cloud.training.augment import mirror_classes, vary

    rows = made_signs(1, 1, seed=8)
    images = torch.from_numpy(np.ascontiguousarray(rows.images.transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(rows.labels)
    (first, first_labels), (again, _), (other, _) = (
        vary(images, labels, mirror_classes(), 3.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.isfinite(first).all()
    unmirrored = mirror_classes()[labels] < 0
    assert torch.equal(first_labels[unmirrored], labels[unmirrored])


def test_dusk_leaves_few_grey_levels_and_never_black() -> None:
    from roadloop_cloud.training.augment import _dusk

    images = torch.full((200, 3, 32, 32), 200.0)
    dark = _dusk(images, torch.Generator().manual_seed(1))
    means = dark.mean((1, 2, 3))
    changed = means < 199
    assert 20 <= int(changed.sum()) <= 60  # a fifth
    assert float(means.min()) >= 9.0
    assert torch.equal(dark[changed], dark[changed].round())


def test_smearing_keeps_the_light_and_loses_detail_along_one_axis() -> None:
    from roadloop_cloud.training.augment import _smear

    stripes = torch.zeros(400, 3, 32, 32)
    stripes[:, :, :, ::2] = 100.0
    smeared = _smear(stripes, torch.Generator().manual_seed(1))
    changed = (smeared - stripes).abs().amax((1, 2, 3)) > 1
    assert 5 <= int(changed.sum()) <= 40  # those smeared across: a twentieth
    inner = smeared[changed][:, :, :, 4:-4]
    assert float(inner.std(dim=3).max()) < 40 < float(stripes[0].std(dim=2).min())
