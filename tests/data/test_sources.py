from pathlib import Path

import numpy as np
import pytest

from lmf import io
from lmf.data import Archive, Bundled, DataError, FileSettings, Folder, split_folder
from lmf.data.sources import source_files


def test_bundled_sides_share_nothing() -> None:
    train, val = Bundled("train").files(), Bundled("val").files()
    assert len(train) == 10
    assert [path.stem for path in val] == ["astronaut", "chelsea"]
    assert not set(train) & set(val)


def test_bundled_pictures_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bundled, "NAMES", {"val": ("astronaut.png", "unicorn.png")})
    with pytest.raises(DataError, match=r"lacks unicorn\.png"):
        Bundled("val").files()


def test_a_split_folder(tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"{n}.png").touch()
    train, val = (Folder(tmp_path, part=part, fraction=0.2).files() for part in ("train", "val"))  # type: ignore[arg-type]
    assert len(val) == 6
    assert sorted(train + val) == Folder(tmp_path).files()
    assert [path.stem for path in val] != [path.stem for path in Folder(tmp_path).files()[:6]]


def test_a_split_does_not_depend_on_the_place(tmp_path: Path) -> None:
    for place in ("a", "b/c"):
        (tmp_path / place).mkdir(parents=True)
        for n in range(10):
            (tmp_path / place / f"{n}.png").touch()
    first, second = (Folder(tmp_path / place, part="val", fraction=0.3).files() for place in ("a", "b/c"))
    assert [path.name for path in first] == [path.name for path in second]


def test_too_few_to_split(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="one usable image"):
        Folder(tmp_path, part="val").files()


def test_a_split_is_of_usable_pictures(tmp_path: Path) -> None:
    """With any damaged picture, the validation part is not empty, and the parts are disjoint and complete."""
    for n in range(5):
        io.write(tmp_path / f"{n}.png", np.full((8, 8, 3), 40 * n, np.uint8))
    skip = FileSettings(on_corrupt="skip")
    for n in range(5):
        path = tmp_path / f"{n}.png"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        train, val = (source_files(Folder(tmp_path, part=part), skip) for part in ("train", "val"))  # type: ignore[arg-type]
        path.write_bytes(data)
        assert len(val) == 1
        assert sorted(int(file.stem) for file in train + val) == [m for m in range(5) if m != n]


def test_lr_folders() -> None:
    assert Folder("a").lr_folder(2) is None
    assert Folder("a", lr="b").lr_folder(2.0) == Path("b/X2")
    assert Folder("a", lr="b").lr_folder(3.7) == Path("b/X3.7")


def test_a_missing_archive_says_what_to_do(tmp_path: Path) -> None:
    source = Archive(tmp_path, "PHOTOS", "http://localhost:1/PHOTOS.zip", download=False)
    source.prepare()
    with pytest.raises(DataError, match=rf"download http://localhost:1/PHOTOS.zip and unpack it into {tmp_path}"):
        source.files()


def test_a_folder_beside_another(tmp_path: Path) -> None:
    assert split_folder("train", tmp_path, "other").root == tmp_path
    assert split_folder("val", tmp_path, "other").root == Path("other")
    assert [split_folder(part, tmp_path).part for part in ("train", "val")] == ["train", "val"]  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"part": "test"}, {"fraction": 0.0}, {"fraction": 1.0}])
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(DataError, match="must be"):
        Folder("a", **wrong)
