import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmf import io
from lmf.data import DataError, EvalSet, Folder
from lmf.data.degradations import resize_matlab


def evaluation(source: Folder, scale: float, **options: object) -> EvalSet:
    return EvalSet("photos", source, scale=scale, **({"protocol": "raw", "lr": "pil"} | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1, 2, 3, 3.7, 12])
def test_protocol_of_lr_made_here(photos: Path, scale: float) -> None:
    images = evaluation(Folder(photos), scale)
    assert len(images) == 5
    for item, path in zip((images[n] for n in range(5)), sorted(photos.iterdir()), strict=True):
        full = io.read(path)
        h, w = int(full.shape[0] / scale + 1e-9), int(full.shape[1] / scale + 1e-9)
        hr = full[: round(h * scale), : round(w * scale)]
        lr = np.array(Image.fromarray(hr).resize((w, h), Image.Resampling.BICUBIC))
        assert item["name"] == path.stem
        assert torch.equal(item["hr"], torch.from_numpy(hr).permute(2, 0, 1) / 255)
        assert torch.equal(item["lr"], torch.from_numpy(lr).permute(2, 0, 1) / 255)


def test_attributes(photos: Path) -> None:
    images = evaluation(Folder(photos), 3.7, protocol="div2k", limit=2)
    assert (images.name, images.scale, images.protocol, len(images)) == ("photos_x3.7", 3.7, "div2k", 2)
    assert evaluation(Folder(photos), 4.0).name == "photos_x4"


def test_matlab(photos: Path) -> None:
    hr = io.read(photos / "0.png")  # 40 x 48
    expected = torch.from_numpy(resize_matlab(hr, 0.25)).permute(2, 0, 1) / 255
    assert torch.equal(evaluation(Folder(photos), 4, lr="matlab")[0]["lr"], expected)


def test_centre_crop(photos: Path) -> None:
    item = evaluation(Folder(photos), 4, crop=16)[0]
    hr = torch.from_numpy(io.read(photos / "0.png")).permute(2, 0, 1) / 255
    assert torch.equal(item["hr"], hr[:, 12:28, 16:32])
    assert item["lr"].shape == (3, 4, 4)
    assert evaluation(Folder(photos), 4, crop=1000)[0]["hr"].shape == (3, 40, 48)


@pytest.fixture
def stored(photos: Path, tmp_path: Path) -> Folder:
    """Return the photos with stored LR versions at x2 that are black, unlike computed ones."""
    (tmp_path / "X2").mkdir()
    for path in photos.iterdir():
        h, w = io.read_size(path)
        io.write(tmp_path / "X2" / f"{path.stem}x2.png", np.zeros((h // 2, w // 2, 3), np.uint8))
    return Folder(photos, lr=tmp_path)


def test_stored_lr(stored: Folder) -> None:
    images = evaluation(stored, 2, lr="stored")
    for n in range(5):
        item = images[n]
        assert item["lr"].max() == 0
        assert item["hr"].shape == (3, 2 * item["lr"].shape[1], 2 * item["lr"].shape[2])
        assert torch.equal(item["hr"], evaluation(stored, 2)[n]["hr"])
    assert evaluation(stored, 2, lr="pil")[0]["lr"].max() > 0


def test_stored_lr_is_cropped_with_its_hr(stored: Folder, photos: Path) -> None:
    lr = np.zeros((20, 24, 3), np.uint8)
    lr[8:12, 10:14] = 255
    io.write(stored.lr / "X2" / "0x2.png", lr)  # type: ignore[operator]
    item = evaluation(stored, 2, lr="stored", crop=8)[0]
    assert item["lr"].shape == (3, 4, 4)
    assert item["lr"].min() == 1
    assert torch.equal(item["hr"], evaluation(stored, 2)[0]["hr"][:, 16:24, 20:28])


def test_without_stored_lr_it_is_made(stored: Folder) -> None:
    assert torch.equal(evaluation(stored, 3, lr="stored")[0]["lr"], evaluation(stored, 3, lr="pil")[0]["lr"])


def test_incomplete_or_unfit_stored_lr(stored: Folder) -> None:
    assert stored.lr is not None
    io.write(stored.lr / "X2" / "3x2.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(DataError, match=r"3x2\.png \(40 x 40\) times 2 exceeds its HR \(43 x 57\)"):
        evaluation(stored, 2, lr="stored")
    (stored.lr / "X2" / "3x2.png").unlink()
    with pytest.raises(DataError, match=r"no such image: .*3x2\.png; complete the folder"):
        evaluation(stored, 2, lr="stored")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.5}, "at least 1, got 0.5"),
        ({"scale": 41}, r"0\.png is 40 x 48"),
        ({"scale": 4, "crop": 3}, "crop 3"),
        ({"scale": 4, "limit": 0}, "limit"),
        ({"scale": 4, "lr": "bilinear"}, "'bilinear'"),
        ({"scale": 4, "protocol": "y"}, "'y'"),
    ],
)
def test_impossible_settings(photos: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluation(Folder(photos), **options)


def test_damaged_images_can_be_left_out(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "copy")
    bad = tmp_path / "copy" / "2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    images = evaluation(Folder(tmp_path / "copy"), 2, on_corrupt="skip")
    assert [images[n]["name"] for n in range(len(images))] == ["0", "1", "3", "4"]
    assert [
        path.stem for path in evaluation(Folder(tmp_path / "copy"), 2, on_corrupt="skip", limit=3).images.paths
    ] == [
        "0",
        "1",
        "3",
    ]


@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_benchmarks(shared: Path, name: str) -> None:
    root = shared / "data" / "benchmark" / name
    for scale in (2, 3, 4):
        images = EvalSet(name, Folder(root / "HR", root / "LR_bicubic"), scale=scale, protocol="benchmark")
        made = EvalSet(name, Folder(root / "HR"), scale=scale, protocol="benchmark", lr="matlab")
        assert torch.equal(images[1]["lr"], made[1]["lr"])
        assert torch.equal(images[1]["hr"], made[1]["hr"])
