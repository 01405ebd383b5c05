import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmf import io
from lmf.data import DataError, ImageFolder
from lmf.data.folder import _mapped, intact, list_images, to_rgb


def save(path: Path, size: tuple[int, int] = (12, 16), value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    io.write(path, np.full((*size, 3), value, np.uint8))
    return path


def truncate(path: Path) -> Path:
    """Truncate a picture after its header."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    io.write(path, noise)
    path.write_bytes(path.read_bytes()[:200])
    return path


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no such folder.*{tmp_path}/nowhere"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"no images in {tmp_path}"):
        list_images(tmp_path)


def test_everything_becomes_rgb() -> None:
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    np.testing.assert_array_equal(to_rgb(rgba), rgba[..., :3])
    np.testing.assert_array_equal(to_rgb(rgba[..., 0]), rgba[..., [0, 0, 0]])
    np.testing.assert_array_equal(to_rgb(rgba[..., :2]), rgba[..., [0, 0, 0]])
    deep = rng.integers(0, 65536, (3, 4, 3), dtype=np.uint16)
    np.testing.assert_array_equal(to_rgb(deep), np.rint(deep / 257).astype(np.uint8))


def test_palette_files_become_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(np.full((4, 4, 3), (255, 0, 0), np.uint8))
    picture.quantize(4).save(tmp_path / "p.png")
    assert ImageFolder([tmp_path / "p.png"])[0].reshape(-1, 3).tolist() == [[255, 0, 0]] * 16


def test_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png")
    first = ImageFolder([path], tmp_path / "cache")[0]
    monkeypatch.setattr(io, "read", None)  # a second decoding would call it
    second = ImageFolder([path], tmp_path / "cache")[0]
    np.testing.assert_array_equal(first, second)
    assert isinstance(second, np.memmap)
    assert [name.endswith(".npy") for name in os.listdir(tmp_path / "cache")] == [True]


def test_changed_pictures_are_decoded_again(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", value=100)
    assert ImageFolder([path], tmp_path / "cache")[0].max() == 100
    save(path, value=200)
    os.utime(path, ns=(1, 1))
    assert ImageFolder([path], tmp_path / "cache")[0].max() == 200


def test_unwritable_cache_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"cannot write the image cache .*a\.png"):
        ImageFolder([path], path / "cache")[0]


def test_making_a_folder_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / "a.png"), truncate(tmp_path / "b.png")]
    monkeypatch.setattr(io, "read", None)
    assert ImageFolder(paths, tmp_path / "cache").sizes == [(12, 16), (12, 16)]


@pytest.mark.parametrize("kind", ["garbage", "small"])
def test_unfit_headers(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = save(tmp_path / "a.png"), tmp_path / "b.png"
    save(bad, (12, 9)) if kind == "small" else bad.write_bytes(b"garbage")
    message = r"b\.png is 12 x 9, .* at least 10" if kind == "small" else r"cannot read image .*b\.png"
    with pytest.raises(DataError, match=message):
        ImageFolder([good, bad], smallest=10)
    with caplog.at_level(logging.WARNING):
        assert ImageFolder([good, bad], smallest=10, on_corrupt="skip").paths == [good]
    assert "b.png" in caplog.text
    with pytest.raises(DataError, match="none of 1 images"):
        ImageFolder([bad], smallest=10, on_corrupt="skip")


def test_truncated_picture_stops_or_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    paths = [truncate(tmp_path / "a.png"), save(tmp_path / "b.png", value=7)]
    with pytest.raises(DataError, match=r"a\.png"):
        ImageFolder(paths)[0]
    folder = ImageFolder(paths, on_corrupt="skip")
    with caplog.at_level(logging.WARNING):
        assert folder[0].max() == folder[0].max() == folder[1].max() == 7
    assert caplog.text.count("a.png") == 1
    assert ImageFolder(paths, on_corrupt="skip", decode=True).paths == paths[1:]
    with pytest.raises(DataError, match="none of 1 images can be decoded"):
        ImageFolder(paths[:1], on_corrupt="skip")[0]


def test_the_limit_counts_pictures_that_can_be_used(tmp_path: Path) -> None:
    paths = [truncate(tmp_path / "a.png"), *(save(tmp_path / f"{name}.png") for name in "bcd")]
    assert ImageFolder(paths, on_corrupt="skip", decode=True, limit=2).paths == paths[1:3]
    assert ImageFolder(paths, limit=2).paths == paths[:2]
    assert intact(paths) == paths[1:]


def test_unknown_option() -> None:
    with pytest.raises(DataError, match="'ignore'"):
        ImageFolder([], on_corrupt="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"nothing", lambda data: data[:-8], lambda data: bytes(len(data))])
def test_a_damaged_copy_is_decoded_again(tmp_path: Path, content) -> None:
    path = save(tmp_path / "a.png", value=100)
    ImageFolder([path], tmp_path / "cache", decode=True)
    (copy,) = (tmp_path / "cache").iterdir()
    copy_data = copy.read_bytes()
    _mapped.cache_clear()  # as in another process
    copy.write_bytes(content(copy_data) if callable(content) else content)
    np.testing.assert_array_equal(ImageFolder([path], tmp_path / "cache")[0], np.full((12, 16, 3), 100))
    assert copy.read_bytes() == copy_data
