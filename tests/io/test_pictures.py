import errno
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from lmf import io

from . import corpus

SHAPES = [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)]


def picture(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    return (np.random.default_rng(0).random(shape) * top).astype(dtype)


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


@pytest.mark.parametrize("shape", SHAPES)
def test_16_bit_png_is_read_by_other_decoders(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = picture(shape, "uint16")
    io.write(tmp_path / "a.png", array)
    read = imagecodecs.png_decode((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(read, array[..., 0] if shape[2:] == (1,) else array)
    if array.ndim == 2:
        with Image.open(tmp_path / "a.png") as grey:
            np.testing.assert_array_equal(np.asarray(grey), array)


@pytest.mark.parametrize("shape", SHAPES)
def test_16_bit_png_by_hand(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = picture(shape, "uint16")
    (tmp_path / "a.png").write_bytes(corpus.by_hand(array))
    np.testing.assert_array_equal(io.read(tmp_path / "a.png"), array[..., 0] if shape[2:] == (1,) else array)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_16_bit_png_with_a_transparent_colour(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = picture(shape, "uint16")
    array[2, 3] = array[0, 0] ^ 1  # differs in the last bit only
    (tmp_path / "a.png").write_bytes(
        corpus.by_hand(array, 16, None, corpus.chunk(b"tRNS", np.atleast_1d(array[0, 0]).astype(">u2").tobytes()))
    )
    read = io.read(tmp_path / "a.png")
    np.testing.assert_array_equal(read[..., :-1].reshape(shape), array)
    assert read[0, 0, -1] == 0
    assert (read[..., -1] == 0).sum() == 1


@pytest.mark.parametrize(
    ("depth", "row", "expected"),
    [(1, 0xA0, [255, 0, 255, 0, 0, 0, 0, 0]), (2, 0x1B, [0, 85, 170, 255]), (4, 0x2F, [34, 255])],
)
def test_png_of_few_bits(tmp_path: Path, depth: int, row: int, expected: list[int]) -> None:
    data = corpus.by_hand(np.array([[row]], np.uint8), depth, 0)
    (tmp_path / "a.png").write_bytes(data)
    assert io.read(tmp_path / "a.png").tolist() == [expected]
    keyed = corpus.by_hand(np.array([[row]], np.uint8), depth, 0, corpus.chunk(b"tRNS", b"\0\0"))
    (tmp_path / "a.png").write_bytes(keyed)
    assert io.read(tmp_path / "a.png")[0].tolist() == [[value, 255 if value else 0] for value in expected]


def test_palette_with_transparency(tmp_path: Path) -> None:
    palette = corpus.chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6, 7, 8, 9])) + corpus.chunk(b"tRNS", b"\x00\x80")
    (tmp_path / "a.png").write_bytes(corpus.by_hand(np.array([[0, 1, 2]], np.uint8), 8, 3, palette))
    assert io.read(tmp_path / "a.png").tolist() == [[[1, 2, 3, 0], [4, 5, 6, 128], [7, 8, 9, 255]]]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P1 # bits\n3 2\n1 0 1\n011\n", [[0, 255, 0], [255, 0, 0]]),
        (b"P2\n3 1 3\n0 1 3\n", [[0, 85, 255]]),
        (b"P2\n2 1\n1000\n1000 1\n", [[65535, 66]]),
        (b"P3 1 1 255 9 8 7\n", [[[9, 8, 7]]]),
        (b"P4\n10 1\n\xaa\x80", [[0, 255, 0, 255, 0, 255, 0, 255, 0, 255]]),
        (b"P5\n2 1\n65535\n\x12\x34\x00\x01", [[0x1234, 1]]),
        (b"P6\n1 1\n65535\n\x00\x01\x00\x02\xff\xff", [[[1, 2, 65535]]]),
    ],
)
def test_netpbm(tmp_path: Path, data: bytes, expected: list) -> None:
    (tmp_path / "a.ppm").write_bytes(data)
    assert io.read(tmp_path / "a.ppm").tolist() == expected
    assert io.read_size(tmp_path / "a.ppm") == np.shape(expected)[:2]


def test_10_bit_avif_and_16_bit_jpeg_2000_keep_their_depth(tmp_path: Path) -> None:
    deep = corpus.noise(16, 24, 3, dtype="uint16")
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, reversible=True, level=0))
    np.testing.assert_array_equal(io.read(tmp_path / "a.jp2"), deep)
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(deep >> 6, bitspersample=10, level=100))
    read = io.read(tmp_path / "a.avif")
    assert read.dtype == np.uint16
    assert np.abs(read.astype(int) - deep).max() < 2000
    assert len(np.unique(read)) > 256


@pytest.mark.parametrize("content", ["rgb.png", "deep.png", "baseline.jpg", "tiles.tif", "lossy.webp", "palette.gif"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
def test_content_decides_the_format(tmp_path: Path, files: dict[str, bytes], content: str, suffix: str) -> None:
    (tmp_path / content).write_bytes(files[content])
    (tmp_path / f"lying{suffix}").write_bytes(files[content])
    np.testing.assert_array_equal(io.read(tmp_path / f"lying{suffix}"), io.read(tmp_path / content))
    assert io.read_size(tmp_path / f"lying{suffix}") == io.read_size(tmp_path / content)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return corpus.corpus()


def test_jpeg_keeps_the_resolution_of_colours(tmp_path: Path) -> None:
    array = np.zeros((64, 64, 3), np.uint8)
    array[..., 0], array[:, np.arange(64) // 2 % 2 == 1] = 255, (0, 0, 255)

    def error(name: str, **options: object) -> float:
        io.write(tmp_path / name, array, **options)
        with Image.open(tmp_path / name) as image:
            return float((np.asarray(image).astype(float) - array).std())

    assert error("a.jpg", quality=100) < 1 < 30 < error("b.jpg", quality=100, subsampling="4:2:0")
    assert error("c.jpg", quality=90) < 5 < 30 < error("d.jpg", quality=89)
    assert error("e.jpg", quality=50, subsampling="4:4:4") < 12
    with pytest.raises(io.ImageError, match="4:2:0, got '4:1:1'"):
        io.write(tmp_path / "f.jpg", array, subsampling="4:1:1")


@pytest.mark.parametrize("frames", ["GIF", "PNG", "WEBP"])
def test_animations_are_refused(tmp_path: Path, frames: str) -> None:
    pictures = [Image.fromarray(corpus.noise(8, 9, 3, seed=n)) for n in range(3)]
    path = tmp_path / "a.png"
    pictures[0].save(path, frames, save_all=True, append_images=pictures[1:], duration=100)
    for reading in (io.read, io.read_header, lambda path: next(io.read_pages(path))):
        with pytest.raises(io.ImageError, match=f"{path}: it is an animation of 3 frames"):
            reading(path)


def test_camera_files_with_a_preview_are_single_pictures(tmp_path: Path) -> None:
    array = corpus.noise(16, 24, 3)
    Image.fromarray(array).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    assert io.read(tmp_path / "a.jpg").shape == array.shape


def test_large_pictures_up_to_max_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own limit plays no part
    for name in ("rgb.png", "baseline.jpg", "rgb.bmp", "palette.gif", "tiles.tif", "lossy.webp", "rgb.ppm"):
        path = tmp_path / name
        path.write_bytes(files[name])
        assert io.read(path, max_pixels=1200).shape[:2] == (30, 40)
        with pytest.raises(io.ImageError, match="40 x 30 pixels are more than max_pixels=1199"):
            io.read(path, max_pixels=1199)


def test_every_picture_cut_short_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        whole = [page.pixels for page in io.read_pages(path)]
        for share in (0.1, 0.5, 0.8, 0.95):
            path.write_bytes(data[: int(share * len(data))])
            pages = pages_or_none(path)
            for got, expected in zip(pages or [], whole if pages else [], strict=True):
                np.testing.assert_array_equal(got, expected)


def pages_or_none(path: Path) -> list[np.ndarray] | None:
    """Return the pages of a file, or None if it is refused by one line that names it."""
    try:
        return [page.pixels for page in io.read_pages(path)]
    except io.ImageError as error:
        message = str(error)
    assert str(path) in message
    assert "\n" not in message
    return None


@pytest.mark.parametrize(
    "name", ["baseline.jpg", "fine.jpg", "progressive.jpg", "grey.jpg", "inks.jpg", "restarts.jpg"]
)
def test_jpeg_that_lacks_data_before_its_end(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    data, path = files[name], tmp_path / name
    scan = data.find(b"\xff\xda") + 20
    for share in (0.01, 0.5, 0.9, 0.98):
        path.write_bytes(data[: scan + int(share * (len(data) - scan))] + b"\xff\xd9")
        with pytest.raises(io.ImageError, match="truncated"):
            io.read(path)
    frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    path.write_bytes(data[: frame + 5] + (60).to_bytes(2) + data[frame + 7 :])  # twice as high
    with pytest.raises(io.ImageError):
        io.read(path)


def test_flat_jpeg_is_complete(tmp_path: Path) -> None:
    for size in ((1, 1), (8, 8), (17, 33), (64, 64)):
        for options in ({}, {"progressive": True}, {"subsampling": 0}):
            Image.new("RGB", size, (250, 250, 250)).save(tmp_path / "a.jpg", **options)
            assert io.read(tmp_path / "a.jpg").shape == (size[1], size[0], 3)


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
