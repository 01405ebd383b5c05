from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from lmf.data import DataError, ImageFolder, Sampling, TrainSamples
from lmf.data.sampling import choose


def samples(images: ImageFolder, **options: float) -> TrainSamples:
    seed = int(options.pop("seed", 0))
    return TrainSamples(images, seed, Sampling(**({"patch": 8, "queries": 20} | options)))  # type: ignore[arg-type]


def whereabouts(crop: np.ndarray, images: ImageFolder) -> tuple[int, int, int]:
    """Find image, top and left of a crop."""
    side = len(crop)
    for n in range(len(images)):
        windows = np.lib.stride_tricks.sliding_window_view(images[n], (side, side), axis=(0, 1))
        hits = np.argwhere((windows == crop.transpose(2, 0, 1)).all((2, 3, 4)))
        if len(hits):
            return n, *hits[0]
    raise AssertionError("the crop is from no image")


def test_a_sample_is_what_it_says(images: ImageFolder) -> None:
    made = samples(images, queries=10000)  # so that every pixel of the crop is a target
    for number in range(8):
        sample = made.sample(number)
        side = int(sample["crop"])
        crop = np.zeros((side * side, 3), np.uint8)
        crop[sample["pixel"]] = sample["target"]
        crop = crop.reshape(side, side, 3)
        whereabouts(crop, images)
        expected = np.asarray(Image.fromarray(crop).resize((8, 8), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(sample["lr"], expected)


def test_scales_fill_their_range(images: ImageFolder) -> None:
    sides = np.array([samples(images).sample(n)["crop"] for n in range(300)])
    assert sides.min() == 8
    assert sides.max() == 32
    assert abs(sides.mean() - 20) < 1.5
    assert {int(samples(images, min_scale=2.5, max_scale=2.5).sample(n)["crop"]) for n in range(5)} == {20}
    assert samples(images, min_scale=0.5, max_scale=0.5).sample(0)["lr"].shape == (8, 8, 3)


def test_batches_are_samples_stacked(images: ImageFolder) -> None:
    made = samples(images)
    batch = made.__getitems__([5, 6, 11])
    assert isinstance(batch, dict)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "lr": ((3, 3, 8, 8), torch.uint8),
        "target": ((3, 20, 3), torch.uint8),
        "pixel": ((3, 20), torch.int64),
        "crop": ((3,), torch.int64),
        "flip": ((3, 3), torch.bool),
    }
    np.testing.assert_array_equal(batch["lr"][2].permute(1, 2, 0), made.sample(11)["lr"])


def test_samples_depend_on_seed_and_number_alone(images: ImageFolder) -> None:
    first, again, other = samples(images), samples(images), samples(images, seed=1)
    again.sample(3)
    assert all(np.array_equal(a, b) for a, b in zip(first.sample(7).values(), again.sample(7).values(), strict=True))
    assert not np.array_equal(first.sample(7)["target"], other.sample(7)["target"])
    assert not np.array_equal(first.sample(7)["target"], first.sample(8)["target"])


def test_every_image_is_used_once_a_pass(images: ImageFolder) -> None:
    made = samples(images, queries=10000)
    seen = []
    for number in range(15):
        sample = made.sample(number)
        side = int(sample["crop"])
        crop = np.zeros((side * side, 3), np.uint8)
        crop[sample["pixel"]] = sample["target"]
        seen.append(whereabouts(crop.reshape(side, side, 3), images)[0])
    passes = [seen[0:5], seen[5:10], seen[10:15]]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_flips_are_fair(images: ImageFolder) -> None:
    flips = np.array([samples(images).sample(n)["flip"] for n in range(200)])
    assert np.abs(flips.mean(axis=0) - 0.5).max() < 0.12


@pytest.mark.parametrize(("count", "queries"), [(100, 30), (100, 100), (10, 25)])
def test_pixels_are_repeated_only_when_needed(count: int, queries: int) -> None:
    pixel = choose(np.random.default_rng(0), count, queries)
    assert pixel.shape == (queries,)
    assert pixel.min() >= 0
    assert pixel.max() < count
    times = Counter(pixel.tolist())
    assert max(times.values()) - min(times.get(n, 0) for n in range(count)) <= 1


@pytest.mark.parametrize("wrong", [{"patch": 0}, {"queries": 0}, {"min_scale": 0}, {"min_scale": 5}, {"queries": 2.5}])
def test_impossible_settings(images: ImageFolder, wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="must"):
        samples(images, **wrong)


def test_a_share_of_the_samples_is_drawn(images: ImageFolder) -> None:
    made = samples(images, graphics=0.25, patch=24, queries=10000, max_scale=1.3)
    drawn = [made.sample(n) for n in range(200)]
    assert 0.15 < np.mean([sample["drawn"] for sample in drawn]) < 0.35
    cut = samples(images, patch=24, queries=10000, max_scale=1.3)
    for number, sample in enumerate(drawn[:20]):
        if not sample["drawn"]:
            plain = cut.sample(number)
            assert all(np.array_equal(sample[key], plain[key]) for key in plain), "photographs are the same"
            continue
        side = int(sample["crop"])
        crop = np.zeros((side * side, 3), np.uint8)
        crop[sample["pixel"]] = sample["target"]
        with pytest.raises(AssertionError, match="the crop is from no image"):
            whereabouts(crop.reshape(side, side, 3), images)
        expected = Image.fromarray(crop.reshape(side, side, 3)).resize((24, 24), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(sample["lr"], np.asarray(expected))
    again = samples(images, graphics=0.25, patch=24, queries=10000, max_scale=1.3).sample(7)
    assert all(np.array_equal(again[key], value) for key, value in drawn[7].items())


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        Sampling(graphics=share)


def test_graphics_need_room() -> None:
    with pytest.raises(DataError, match="at least 16 x 16"):
        Sampling(patch=12, graphics=0.1)
