import errno
import os
from pathlib import Path

import kornia_rs.io
import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from PIL import Image

from lmf import SRModel, io
from lmf.decoders.bicubic import Bicubic
from lmf.encoders.identity import Identity

SHAPES = [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)]
MODES = {"RGB": "RGB", "L": "L", "RGBA": "RGBA", "LA": "LA", "1": "L", "P": "RGB", "I": "I", "CMYK": "RGB"}


def picture(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


@pytest.fixture(scope="module")
def model() -> SRModel:
    return SRModel(Identity(), Bicubic())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_survive_a_round_trip(shape: tuple[int, ...], dtype: str) -> None:
    array = picture(shape, dtype)
    (colour, *_), compose = io.decompose(array)
    assert colour.shape == (1, 3, 5, 7)
    assert colour.dtype == torch.float32
    assert colour.contiguous(memory_format=torch.channels_last).stride() == (105, 1, 21, 3)  # convolutions go by that
    back = restore(colour)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_allclose(back.astype(float), array.astype(float), atol=0 if array.dtype.kind == "u" else 2e-3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_tensors_survive_a_round_trip(channels: int, batch: tuple[int, ...]) -> None:
    tensor = torch.rand(*batch, channels, 5, 7, dtype=torch.float64)
    colour, restore = io.decompose(tensor)
    assert colour.shape == (*(batch or (1,)), 3, 5, 7)
    back = restore(colour)
    assert back.dtype == torch.float64
    torch.testing.assert_close(back, tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_pil_modes(mode: str, model: SRModel) -> None:
    source = Image.fromarray(picture((6, 8, 3))).convert(mode)
    out = model.upscale(source, scale=2.5)
    assert (out.mode, out.size) == (MODES[mode], (20, 15))


def test_pil_16_bit_and_float_keep_their_depth(model: SRModel) -> None:
    deep = Image.fromarray(np.full((4, 4), 12345, np.uint16))
    assert deep.mode == "I;16"
    out = model.upscale(deep, scale=2.5)
    assert out.mode == "I;16"
    assert (np.asarray(out) == 12345).all()
    assert model.upscale(Image.fromarray(np.full((4, 4), 0.5, np.float32)), scale=2).mode == "F"


def test_transparent_palette_becomes_rgba(model: SRModel) -> None:
    source = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    source.info["transparency"] = 0
    out = model.upscale(source, scale=2)
    assert out.mode == "RGBA"
    assert np.asarray(out)[..., 3].max() == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_upscale_keeps_the_kind(shape: tuple[int, ...], dtype: str, model: SRModel) -> None:
    out = model.upscale(picture(shape, dtype), scale=2.5)
    assert out.shape == (12, 18, *shape[2:])
    assert out.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_upscale_keeps_batches_and_dtype(dtype: torch.dtype, model: SRModel) -> None:
    out = model.upscale(torch.rand(2, 4, 5, 7).to(dtype), scale=2.5)
    assert out.shape == (2, 4, 12, 18)
    assert out.dtype == dtype


def test_alpha_is_resized_beside_the_colours() -> None:
    tensor = torch.rand(1, 4, 6, 6)
    _, restore = io.decompose(tensor)
    colours = torch.rand(1, 3, 9, 15)
    out = restore(colours)
    torch.testing.assert_close(out[:, :3], colours)
    expected = F.interpolate(tensor[:, 3:], (9, 15), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(out[:, 3:], expected)


def test_grey_is_the_luma() -> None:
    _, restore = io.decompose(np.zeros((2, 2), np.uint8))
    rgb = picture((2, 2, 3))
    ours = restore(torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255)
    assert np.abs(ours.astype(int) - np.asarray(Image.fromarray(rgb).convert("L"))).max() <= 1


def test_integers_are_rounded_half_up() -> None:
    _, restore = io.decompose(np.zeros((1, 4, 3), np.uint8))
    values = torch.tensor([0.5, 1.5, 1.49, 254.5]) / 255
    assert restore(values.expand(1, 3, 1, 4))[0, :, 0].tolist() == [1, 2, 1, 255]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((2, 2, 3), np.nan), "finite"),
        (np.full((2, 2, 3), 1.5), r"\[0, 1\], got values from 1.5 to 1.5"),
        (torch.full((3, 2, 2), -0.1), r"\[0, 1\]"),
        (np.zeros((0, 2, 3), np.uint8), r"shape \(0, 2, 3\)"),
        (np.zeros((2, 2, 5), np.uint8), "C = 1 to 4"),
        (np.zeros((1, 2, 2, 3), np.uint8), "H, W"),
        (np.zeros((2, 2), np.int32), "got int32"),
        (np.zeros((2, 2), bool), "got bool"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(2, 2), r"\(2, 2\)"),
        (torch.zeros(1, 5, 2, 2), "C = 1 to 4"),
        (Image.new("HSV", (2, 2)), "HSV"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "70000"),
        ("photo.png", "got str"),
    ],
)
def test_what_cannot_be_understood_is_refused(wrong: object, message: str) -> None:
    with pytest.raises(io.ImageError, match=message):
        io.decompose(wrong)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_lossless_files(tmp_path: Path, shape: tuple[int, ...], dtype: str, suffix: str) -> None:
    array, path = picture(shape, dtype), tmp_path / f"a{suffix}"
    io.write(path, array)
    assert io.read_size(path) == (5, 7)
    back = io.read(path)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, array[..., 0] if shape[2:] == (1,) else array)
    assert os.listdir(tmp_path) == [path.name]


def test_16_bit_png_is_read_by_other_decoders(tmp_path: Path) -> None:
    array = picture((5, 7, 3), "uint16")
    io.write(tmp_path / "a.png", array)
    np.testing.assert_array_equal(kornia_rs.io.read_image_png_u16(str(tmp_path / "a.png"), "rgb"), array)
    io.write(tmp_path / "g.png", array[..., 0])
    with Image.open(tmp_path / "g.png") as grey:
        np.testing.assert_array_equal(np.asarray(grey), array[..., 0])


def test_16_bit_files_of_other_encoders(tmp_path: Path) -> None:
    array = picture((5, 7, 4), "uint16")
    kornia_rs.io.write_image_png_u16(str(tmp_path / "a.png"), array, "rgba")
    np.testing.assert_array_equal(io.read(tmp_path / "a.png"), array)
    tifffile.imwrite(tmp_path / "a.tif", array[..., :3].transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(io.read(tmp_path / "a.tif"), array[..., :3])


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_lossy_files(tmp_path: Path, suffix: str) -> None:
    array = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    io.write(tmp_path / f"a{suffix}", array, quality=95)
    assert np.abs(io.read(tmp_path / f"a{suffix}").astype(int) - array).max() <= 4


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    array = np.zeros((16, 24, 3), np.uint8)
    array[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(array).save(path, exif=exif)
    turned = io.read(path)
    assert turned.shape[:2] == io.read_size(path) == ((16, 24) if orientation < 5 else (24, 16))
    corner = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    lit = [at for at in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if turned[at].min() > 200]
    assert lit == [corner[orientation]]


def test_exif_orientation_of_16_bit_tiff(tmp_path: Path) -> None:
    array = picture((5, 7, 3), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)])
    np.testing.assert_array_equal(io.read(tmp_path / "a.tif"), np.rot90(array, -1))
    assert io.read_size(tmp_path / "a.tif") == (7, 5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_damaged_files_are_named(tmp_path: Path, dtype: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    io.write(path, picture((40, 40, 3), dtype))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(io.ImageError, match=str(path)):
        io.read(path)
    path.write_bytes(b"not a picture")
    for reading in (io.read, io.read_size):
        with pytest.raises(io.ImageError, match=str(path)):
            reading(path)
    with pytest.raises(io.ImageError, match="no such image"):
        io.read(tmp_path / f"b{suffix}")


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "message"),
    [
        ("a.jpg", (4, 4, 4), "uint8", "no alpha"),
        ("a.jpg", (4, 4, 3), "uint16", "8 bits"),
        ("a.webp", (4, 4, 3), "uint16", "8 bits"),
        ("a.gif", (4, 4, 3), "uint8", "suffix"),
        ("a.png", (4, 4, 3), "float32", "got float32"),
        ("missing/a.png", (4, 4, 3), "uint8", "cannot write"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], dtype: str, message: str
) -> None:
    with pytest.raises(io.ImageError, match=message):
        io.write(tmp_path / name, picture(shape, dtype))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(io.ImageError, match=r"a\.png: No space left on device"):
        io.write(tmp_path / "a.png", picture((4, 4, 3)))
    assert os.listdir(tmp_path) == []
