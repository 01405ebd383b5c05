from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lmf.data.degradations import resize_matlab, resize_pil

HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256  # Keys' kernel at ±0.25, 0.75, 1.25, 1.75, halved


def test_weights_by_hand() -> None:
    impulse = np.zeros((16, 1))
    impulse[7] = 1
    np.testing.assert_allclose(resize_matlab(impulse, size=(8, 1))[:, 0], [0, 0, *HALVING[::2][::-1], 0, 0])


@pytest.mark.parametrize(("border", "expected"), [("replicate", 128 / 256), ("symmetric", 140 / 256)])
def test_borders_by_hand(border: str, expected: float) -> None:
    impulse = np.zeros((16, 1))
    impulse[0] = 1  # taps -3 .. 0 of the first output all fall on it, or only taps 0 and -1
    assert resize_matlab(impulse, size=(8, 1), border=border)[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("size", [(10, 15), (17, 9), (80, 70)])
def test_interior_equals_torch(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((40, 45, 3))
    theirs = F.interpolate(torch.from_numpy(image).permute(2, 0, 1)[None], size, mode="bicubic", antialias=True)[
        0
    ].permute(1, 2, 0)
    margin = [
        max(2, -(-2 * n // k)) for n, k in zip(size, image.shape[:2], strict=True)
    ]  # torch cuts kernels off there
    inside = tuple(slice(m, -m) for m in margin)
    np.testing.assert_allclose(resize_matlab(image, size=size)[inside], theirs.numpy()[inside], atol=1e-12)


def test_eight_bits_are_rounded_after_each_axis() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    rows = np.floor(resize_matlab(image.astype(float), size=(6, 20)).clip(0, 255) + 0.5)
    both = np.floor(resize_matlab(rows, size=(6, 10)).clip(0, 255) + 0.5)
    np.testing.assert_array_equal(resize_matlab(image, 0.5), both)


def test_scale_gives_matlabs_size() -> None:
    assert resize_matlab(np.zeros((10, 11), np.uint8), 1 / 3).shape == (4, 4)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="either scale or size"):
        resize_matlab(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="border"):
        resize_matlab(np.zeros((4, 4)), 0.5, border="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_published_lr_images_are_reproduced(shared: Path, name: str, scale: int) -> None:
    root = shared / "data" / "benchmark" / name
    for path in sorted((root / "HR").glob("*.png"))[:5]:
        hr = np.asarray(Image.open(path).convert("RGB"))
        lr = np.asarray(Image.open(root / f"LR_bicubic/X{scale}/{path.stem}x{scale}.png").convert("RGB"))
        h, w = hr.shape[0] // scale, hr.shape[1] // scale
        np.testing.assert_array_equal(resize_matlab(hr[: h * scale, : w * scale], 1 / scale), lr, err_msg=path.name)


def test_pil() -> None:
    image = np.full((9, 12, 3), (10, 20, 30), np.uint8)
    out = resize_pil(image, (3, 5))
    assert out.shape == (3, 5, 3)
    assert out.dtype == np.uint8
    assert (out == (10, 20, 30)).all()
