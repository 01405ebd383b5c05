import multiprocessing
import shutil
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.augmentation import RandomChannelShuffle

from lmf import grid, io
from lmf.data import DataError, FeatureDataModule, FileSettings, Folder, ImageFolder, Sampling
from lmf.data.degradations import resize_pil
from lmf.data.features import FeatureSamples
from lmf.decoders import LMLIIF
from lmf.encoders import EDSR, Encoder

SIDE = 12


def encoder(seed: int = 0) -> EDSR:
    torch.manual_seed(seed)
    return EDSR(8, 1).eval()


@pytest.fixture
def make(images: ImageFolder, tmp_path: Path) -> Callable[..., FeatureSamples]:
    def made(eyes: Encoder | None = None, **options: float) -> FeatureSamples:
        settings = {"margin": 2, "seed": 0, "crops": 4, "side": SIDE, "patch": 4, "queries": 30}
        settings |= {"min_scale": 1, "max_scale": 3} | options
        sampling = Sampling(*(settings.pop(key) for key in ("patch", "queries", "min_scale", "max_scale")))  # type: ignore[arg-type]
        return FeatureSamples(images, tmp_path / "cache", eyes or encoder(), sampling=sampling, **settings)  # type: ignore[arg-type]

    return made


@pytest.fixture
def samples(make: Callable[..., FeatureSamples]) -> FeatureSamples:
    made = make()
    made.encode()
    return made


def whereabouts(window: np.ndarray, samples: FeatureSamples) -> tuple[int, int, int]:
    """Find crop, top and left of a window of features."""
    side = len(window)
    for number, feat in enumerate(samples.feat):
        windows = np.lib.stride_tricks.sliding_window_view(feat, (side, side), axis=(0, 1))
        hits = np.argwhere((windows == window.transpose(2, 0, 1)).all((2, 3, 4)))
        if len(hits):
            return number, *hits[0]
    raise AssertionError("the window is from no crop")


def test_features_are_those_of_the_pictures(samples: FeatureSamples) -> None:
    for number, crop in enumerate(samples.crops):
        assert crop.cut(samples.images[crop.image]).shape == (crop.side, crop.side, 3)
        lr = torch.tensor(samples.lr[number]).permute(2, 0, 1)[None] / 127.5 - 1
        expected = samples.encoder(lr)[0].permute(1, 2, 0).detach().numpy()
        np.testing.assert_allclose(samples.feat[number], expected, atol=2e-3)


def test_crops_differ_in_scale_and_flip(make: Callable[..., FeatureSamples]) -> None:
    crops = make(crops=200).crops
    sides = np.array([crop.side for crop in crops])
    assert sides.min() == SIDE
    assert sides.max() == 3 * SIDE
    assert abs(sides.mean() - 2 * SIDE) < 1.5
    assert len({crop.flip for crop in crops}) == 8
    assert {crop.image for crop in crops} == set(range(5))


def test_a_window_decodes_like_the_whole_crop_and_targets_are_its_pixels(samples: FeatureSamples) -> None:
    torch.manual_seed(1)
    decoder = LMLIIF(8, depth=2, hyper=(16,), skip="bilinear").eval()
    edges = 0
    for number in range(40):
        batch = samples.__getitems__([number])
        assert isinstance(batch, dict)
        feat, lr, p = batch["feat"].float(), batch["lr"] * 2 - 1, samples.window
        assert feat.shape == (1, 8, p, p)
        crop, top, left = whereabouts(batch["feat"][0].permute(1, 2, 0).numpy(), samples)
        edges += top in (0, SIDE - p) or left in (0, SIDE - p)
        corner = torch.tensor([top, left])
        coord = ((batch["coord"].double() + 1) * p / 2 + corner) * 2 / SIDE - 1  # of the crop
        cell = batch["cell"] * p / SIDE

        whole = torch.tensor(samples.feat[crop]).permute(2, 0, 1)[None].float()
        image = torch.tensor(samples.lr[crop]).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            expected = decoder.query(decoder.latent(whole, image, cell), coord.float(), cell)
            actual = decoder.query(decoder.latent(feat, lr, batch["cell"]), batch["coord"], batch["cell"])
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=0)

        hr = samples.crops[crop].cut(samples.images[samples.crops[crop].image])
        assert cell[0].tolist() == pytest.approx([2 / len(hr)] * 2)
        pixel = grid.nearest(coord, (len(hr), len(hr)))[0]
        centre = torch.stack([pixel // len(hr), pixel % len(hr)], dim=-1) * 2 / len(hr) - 1 + 1 / len(hr)
        torch.testing.assert_close(coord[0], centre, atol=1e-5, rtol=0, check_dtype=False)
        np.testing.assert_array_equal((batch["target"][0] * 255).round(), hr.reshape(-1, 3)[pixel])
    assert 5 < edges < 40


def test_samples_depend_on_their_number_alone(samples: FeatureSamples, make: Callable[..., FeatureSamples]) -> None:
    again = make()
    again.encode()  # exists already
    both = (s.__getitems__([7, 8]) for s in (samples, again))
    first, second = both
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["coord"][0], first["coord"][1])


def test_another_encoder_or_crop_has_its_own_folder(make: Callable[..., FeatureSamples]) -> None:
    folders = {made.folder for made in (make(), make(encoder(1)), make(seed=1), make(crops=5), make(max_scale=2))}
    assert len(folders) == 5
    assert make().folder == make(patch=6, queries=5).folder  # the features are the same


def test_features_of_converted_pictures(make: Callable[..., FeatureSamples]) -> None:
    plain, halved = make(), make(encoder_input=lambda picture: picture / 2)
    assert halved.folder != plain.folder
    halved.encode()
    lr = torch.tensor(halved.lr[0]).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        expected = encoder()(lr / 2)[0].permute(1, 2, 0)
    np.testing.assert_allclose(halved.feat[0], expected, atol=1e-2, rtol=1e-2)


def test_a_failure_leaves_nothing_behind(make: Callable[..., FeatureSamples], tmp_path: Path) -> None:
    class Fails(EDSR):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    made = make(Fails(8, 1))
    with pytest.raises(RuntimeError, match="out of memory"):
        made.encode()
    assert not [path for path in (tmp_path / "cache").iterdir() if "features" in path.name]


class Waits(EDSR):
    """An encoder that starts at the same time as that of the other process."""

    barrier: Barrier | None = None

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.barrier is not None:
            self.barrier.wait(60)
            self.barrier = None
        return super().forward(image)


def waiting() -> Waits:
    torch.manual_seed(0)
    return Waits(8, 1).eval()


def build(photos: Path, folder: Path, barrier: Barrier) -> None:
    """Decode the photos into a cache and encode crops, each step at the same time as the other process."""

    def read(path: Path) -> np.ndarray:
        barrier.wait(60)
        return read_alone(path)

    read_alone, io.read = io.read, read
    images = ImageFolder(sorted(photos.iterdir()), folder)
    for number, path in enumerate(images.paths):
        np.testing.assert_array_equal(images[number], read_alone(path))
    eyes = waiting()
    eyes.barrier = barrier
    sampling = Sampling(4, 30, 1, 3)
    made = FeatureSamples(images, folder, eyes, margin=2, seed=0, crops=4, side=SIDE, sampling=sampling)
    made.encode()
    assert isinstance(made.__getitems__([0]), dict)


def test_two_processes_build_the_caches_at_once(
    photos: Path, tmp_path: Path, make: Callable[..., FeatureSamples]
) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=build, args=(photos, tmp_path / "cache", barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    alone = make(waiting())
    assert sorted(path.suffix or path.name for path in (tmp_path / "cache").iterdir()) == [".npy"] * 5 + [
        alone.folder.name
    ]
    lr = torch.tensor(alone.lr).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        expected = alone.encoder(lr).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(alone.feat, expected, atol=2e-3)


def test_an_unwritable_folder_is_named(images: ImageFolder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sampling = Sampling(4, 30, 1, 3)
    made = FeatureSamples(images, tmp_path / "file", encoder(), margin=2, seed=0, crops=4, side=SIDE, sampling=sampling)
    with pytest.raises(DataError, match=r"cannot write the features .*file.*: (File exists|Not a directory)"):
        made.encode()


def datamodule(root: Path, tmp_path: Path, **options: Any) -> FeatureDataModule:
    settings = {
        "train": Folder(root),
        "sampling": Sampling(4, 30, 1, 3),
        "files": FileSettings(tmp_path / "cache"),
        "batch_size": 2,
        "iterations": 3,
        "workers": 0,
        "encoder": encoder(),
        "margin": 2,
        "crops": 4,
        "crop_side": SIDE,
    }
    return FeatureDataModule(**(settings | options))  # type: ignore[arg-type]


def test_a_datamodule_of_features(photos: Path, tmp_path: Path) -> None:
    data = datamodule(photos, tmp_path)
    data.prepare_data()
    assert [path.name for path in (tmp_path / "cache").glob("features-*")]
    data.setup("fit")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    assert [batch["number"] for batch in batches] == [0, 1, 2]
    assert (batches[0]["feat"].shape, batches[0]["feat"].dtype) == ((2, 8, 8, 8), torch.float16)
    assert batches[0]["target"].shape == (2, 30, 3)


def test_features_skip_damaged_pictures(photos: Path, tmp_path: Path) -> None:
    """A crop only fits the picture it was drawn for, so a damaged picture must not be replaced."""
    shutil.copytree(photos, tmp_path / "photos")
    damaged = tmp_path / "photos/2.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    data = datamodule(tmp_path / "photos", tmp_path, files=FileSettings(tmp_path / "cache", "skip"), crops=20)
    data.prepare_data()
    data.setup("fit")
    samples = data.samples
    assert isinstance(samples, FeatureSamples)
    assert len(samples.images) == 4
    for crop, lr in zip(samples.crops, samples.lr, strict=True):
        picture = crop.cut(io.read(samples.images.paths[crop.image]))
        np.testing.assert_array_equal(lr, resize_pil(np.ascontiguousarray(picture), (SIDE, SIDE)))


@pytest.mark.parametrize("wrong", [{"files": FileSettings()}, {"photometric": [RandomChannelShuffle()]}])
def test_features_need_a_cache_and_fixed_colours(photos: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"needs data\.cache and no data\.photometric"):
        datamodule(photos, tmp_path, **wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": 0}, "cached_crops must be a whole number of at least 1"),
        ({"side": 7}, "crop_side must be at least 8 LR pixels"),
    ],
)
def test_impossible_settings(make: Callable[..., FeatureSamples], options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**options)
