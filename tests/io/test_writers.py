"""Tests that pictures written in bands equal those written as a whole, and of their size."""

import io as memory
import struct
import threading
import time
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image

from lmf import io
from lmf.io import pieces
from lmf.memory import process_memory, process_peak, reset_process_peak


@pytest.fixture(params=[1 << 20, 5000, 1])
def small_pieces(request, monkeypatch):
    """One piece, several pieces, and pieces of a row."""
    monkeypatch.setattr(pieces, "BYTES", request.param)


def picture(height, width, *channels, dtype=np.uint8, seed=0):
    """Return blocks of colours with noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((height // 7 + 1, width // 7 + 1, *channels)).repeat(7, 0).repeat(7, 1)[:height, :width]
    noisy = 0.9 * blocks + 0.1 * rng.random(blocks.shape)
    return (noisy * np.iinfo(dtype).max).astype(dtype)


def write(path, array, rows=37, **options):
    bands = (array[i : i + rows] for i in range(0, len(array), rows))
    io.write_pages(path, [io.Page(bands, array.shape, array.dtype)], **options)


@pytest.mark.parametrize("quality", [1, 50, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("shape", [(203, 150, 3), (120, 205), (1, 1, 3), (17, 9, 3), (16, 16, 1), (500, 33, 3)])
def test_jpeg_in_bands_has_the_pixels_of_the_whole(tmp_path, small_pieces, shape, subsampling, quality):
    array = picture(*shape)
    write(tmp_path / "a.jpg", array, quality=quality, subsampling=subsampling)
    whole = memory.BytesIO()
    Image.fromarray(array.reshape(shape[:2]) if shape[2:] == (1,) else array).save(
        whole, "JPEG", quality=quality, subsampling=subsampling
    )
    with Image.open(tmp_path / "a.jpg") as found, Image.open(whole) as expected:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert io.read(tmp_path / "a.jpg").shape[:2] == shape[:2]  # which refuses files that lack data


def test_a_jpeg_in_bands_without_its_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "BYTES", 1)
    write(tmp_path / "a.jpg", picture(200, 90, 3))
    data = (tmp_path / "a.jpg").read_bytes()
    for share in (0.5, 0.9, 0.999):
        (tmp_path / "a.jpg").write_bytes(data[: int(share * len(data))])
        with pytest.raises(io.ImageError):
            io.read(tmp_path / "a.jpg")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(61, 50), (61, 50, 2), (61, 50, 3), (61, 50, 4), (1, 1), (3, 1, 4)])
def test_png_in_bands(tmp_path, small_pieces, shape, dtype):
    array = picture(*shape, dtype=dtype)
    write(tmp_path / "a.png", array, rows=7)
    np.testing.assert_array_equal(io.read(tmp_path / "a.png"), array)
    if dtype == np.uint8 or shape[2:] == ():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), array)


def test_png_is_one_valid_stream(tmp_path, small_pieces):
    """zlib checks the checksum, and the filters are undone one byte at a time."""
    array = picture(23, 19, 3)
    write(tmp_path / "a.png", array, rows=5)
    data, at, stream = (tmp_path / "a.png").read_bytes(), 8, b""
    while at < len(data):
        (length,), name = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            data[at + 4 : at + 8 + length]
        )
        stream += data[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(23, 1 + 19 * 3)
    assert (rows[:, 0] == 4).all()
    out = np.zeros((24, 3 + 19 * 3), np.uint8)
    for y in range(23):
        for x in range(19 * 3):
            a, b, c = int(out[y + 1, x]), int(out[y, x + 3]), int(out[y, x])
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            out[y + 1, x + 3] = (int(rows[y, 1 + x]) + nearest) % 256
    np.testing.assert_array_equal(out[1:, 3:].reshape(array.shape), array)


@pytest.mark.parametrize("kind", ["photograph", "graphic"])
def test_png_is_not_larger_than_with_a_full_search(tmp_path, kind):
    """The reference is the filter "up" and a search for matches, which takes six times as long."""
    if kind == "photograph":
        skimage = pytest.importorskip("skimage.data")
        array = np.asarray(Image.fromarray(skimage.chelsea()).resize((900, 600), Image.Resampling.BICUBIC))
    else:
        array = np.full((600, 900, 3), 250, np.uint8)
        for i in range(8):
            array[60 * i : 60 * i + 90, 90 * i : 90 * i + 260] = (30 * i, 200 - 20 * i, 90)
    write(tmp_path / "a.png", array)
    rows = array.reshape(600, -1)
    up = np.pad(rows - np.pad(rows, ((1, 0), (0, 0)))[:-1], ((0, 0), (1, 0)), constant_values=2)
    assert (tmp_path / "a.png").stat().st_size < 1.05 * len(zlib.compress(up.tobytes(), 6))


def test_the_order_is_kept_and_pieces_are_bounded(monkeypatch):
    monkeypatch.setattr(pieces, "WAITING", 5)
    taken, threads = [], set()

    def slow_first(n):
        threads.add(threading.current_thread().name)
        time.sleep(0.2 if n == 0 else 0)
        return n * n

    results = pieces.mapped(slow_first, (taken.append(n) or n for n in range(40)))
    assert next(results) == 0
    assert len(taken) == 5
    assert [*results] == [n * n for n in range(1, 40)]
    assert threading.current_thread().name not in threads


def test_errors_of_threads_and_of_pieces_are_raised():
    def fail(n):
        raise OSError(28, "No space left on device")

    def broken():
        yield 1
        raise RuntimeError("rendering failed")

    with pytest.raises(OSError, match="No space"):
        list(pieces.mapped(fail, range(3)))
    with pytest.raises(RuntimeError, match="rendering failed"):
        list(pieces.mapped(str, broken()))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("compress")]


@pytest.mark.parametrize(("name", "expected"), [("a.png", 0), ("a.tif", 0), ("a.JPG", 0), ("a.webp", 30 * 48_000_000)])
def test_memory_to_write(name, expected):
    assert io.memory_to_write(name, (6000, 8000, 3)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_formats_need_no_more_memory_than_stated(tmp_path, suffix):
    path, array = tmp_path / f"a{suffix}", picture(1500, 2000, 3)
    try:
        io.check_suffix(path)
    except io.ImageError:
        pytest.skip(f"the installed Pillow does not write {suffix}")
    io.write(path, array[:50])
    if reset_process_peak() is None:
        pytest.skip("needs Linux")
    before = process_memory()
    write(path, array)
    assert process_peak() - before < io.memory_to_write(path, array.shape)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_bands_are_not_kept(tmp_path, suffix, monkeypatch):
    """A band that has been written may be freed."""
    monkeypatch.setattr(pieces, "WAITING", 2)
    alive = []

    def bands():
        for n in range(40):
            band = picture(64, 2000, 3, seed=n)
            alive.append(weakref.ref(band))
            yield band
            del band
            assert sum(ref() is not None for ref in alive) < 16

    io.write_pages(tmp_path / f"a{suffix}", [io.Page(bands(), (2560, 2000, 3), np.dtype(np.uint8))])
    assert io.read_size(tmp_path / f"a{suffix}") == (2560, 2000)
