import kornia.augmentation
import numpy as np
import pytest
import torch

from lmf import grid
from lmf.data import BatchAugment, DataError, ImageFolder, Sampling, TrainSamples
from tests.devices import NoFloat64

FLIPS = torch.tensor([[v, h, t] for v in (0, 1) for h in (0, 1) for t in (0, 1)], dtype=torch.bool)


def picture_and_batch(side: int = 12) -> tuple[torch.Tensor, dict]:
    """Return a crop and a batch that contains it with every flip."""
    crop = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    pixel = torch.stack([torch.randperm(side * side)[:30] for _ in FLIPS])
    target = crop.flatten(1).T[pixel]
    lr = crop[:, ::3, ::3].expand(len(FLIPS), -1, -1, -1)
    sides = torch.full((len(FLIPS),), side)
    return crop, {"lr": lr, "target": target, "pixel": pixel, "crop": sides, "flip": FLIPS, "number": 3}


def turned(picture: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    vertical, horizontal, transpose = flip.tolist()
    dims = [dim for dim, on in ((1, vertical), (2, horizontal)) if on]
    picture = picture.flip(dims)
    return picture.transpose(1, 2) if transpose else picture


@pytest.mark.parametrize("side", [12, 17])
def test_augmenting_then_sampling_is_sampling_the_augmented(side: int) -> None:
    crop, batch = picture_and_batch(side)
    out = BatchAugment()(batch)
    for n, flip in enumerate(FLIPS):
        picture = turned(crop, flip).float() / 255
        index = grid.nearest(out["coord"][n], (side, side))
        assert torch.equal(picture.flatten(1).T[index], out["target"][n])
        assert torch.equal(grid.Grid.of(side, side).coord()[index], out["coord"][n])  # bit for bit
        assert torch.equal(turned(batch["lr"][n], flip).float() / 255, out["lr"][n])


def test_devices_without_float64() -> None:
    """Coordinates of all sides equal those of `grid.axis` bit for bit without float64 on the device."""
    sides = torch.arange(1, 3000)
    pixel = sides**2 // 2
    batch = {
        "lr": torch.zeros(len(sides), 3, 1, 1, dtype=torch.uint8),
        "target": torch.zeros(len(sides), 1, 3, dtype=torch.uint8),
        "pixel": pixel[:, None],
        "crop": sides,
        "flip": torch.zeros(len(sides), 3, dtype=torch.bool),
        "number": 0,
    }
    with NoFloat64():
        out = BatchAugment()(batch)
    for i, (side, n) in enumerate(zip(sides.tolist(), pixel.tolist(), strict=True)):
        axis = grid.axis(side)
        assert out["coord"][i, 0].tolist() == [axis[n // side].item(), axis[n % side].item()]
        assert out["cell"][i, 0] == np.float32(2 / side)


def test_contract(images: ImageFolder) -> None:
    raw = TrainSamples(images, 0, Sampling(8, 20, 1, 4)).__getitems__([0, 1, 2])
    assert isinstance(raw, dict)
    out = BatchAugment()(raw | {"number": 9})
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in out.items() if key != "number"}
    assert shapes == {
        "lr": ((3, 3, 8, 8), torch.float32),
        "coord": ((3, 20, 2), torch.float32),
        "cell": ((3, 2), torch.float32),
        "target": ((3, 20, 3), torch.float32),
    }
    assert out["number"] == 9
    torch.testing.assert_close(out["cell"][:, 0], 2 / raw["crop"])
    assert out["lr"].max() <= 1
    assert out["coord"].abs().max() < 1


def test_photometric_changes_patch_and_targets_alike() -> None:
    _, batch = picture_and_batch()
    batch["flip"] = torch.zeros_like(FLIPS)
    plain = BatchAugment()(batch)
    out = BatchAugment([kornia.augmentation.RandomChannelShuffle(p=1.0)], seed=1)(batch)
    for n in range(len(FLIPS)):
        orders = [
            order
            for order in torch.cartesian_prod(*[torch.arange(3)] * 3)
            if torch.equal(plain["lr"][n][order], out["lr"][n])
        ]
        assert len(orders) == 1
        assert torch.equal(plain["target"][n][:, orders[0]], out["target"][n])
    assert not torch.equal(plain["lr"], out["lr"])


def test_photometric_depends_on_seed_number_and_rank_alone() -> None:
    _, batch = picture_and_batch()
    modules = [kornia.augmentation.ColorJiggle(0.3, 0.3, 0.3, 0.1, p=1.0)]
    augment = BatchAugment(modules, seed=1)
    state = torch.random.get_rng_state()
    first = augment(batch)["lr"]
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    assert torch.equal(augment(batch)["lr"], first)
    assert not torch.equal(augment(batch | {"number": 4})["lr"], first)
    assert not torch.equal(augment(batch, rank=1)["lr"], first)


def test_geometric_modules_are_refused() -> None:
    with pytest.raises(DataError, match="RandomRotation"):
        BatchAugment([kornia.augmentation.RandomRotation(10.0)])
