import os
from pathlib import Path

import pytest

from lmf import io


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in io.list_pictures(root)]


def test_any_depth_sorted_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a/c.jpg", "a/b.tif", ".hidden.png", ".cache/d.png", "a/notes.txt")
    assert names(tmp_path) == ["a/b.tif", "a/c.jpg", "b.PNG"]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "here/1.png", "there/2.png", "there/deep/3.png", "4.png")
    (tmp_path / "here/linked").symlink_to(tmp_path / "there")
    (tmp_path / "here/5.png").symlink_to(tmp_path / "4.png")
    (tmp_path / "here/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert names(tmp_path / "here") == ["1.png", "5.png", "linked/2.png", "linked/deep/3.png"]


def test_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/other").symlink_to(tmp_path / "b")
    (tmp_path / "b/back").symlink_to(tmp_path / "a")
    (tmp_path / "b/up").symlink_to("..")
    assert names(tmp_path / "a") == ["1.png", "other/2.png"]


def test_a_folder_with_two_names_is_listed_once_by_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "z/1.png")
    for link in ("a", "b"):
        (tmp_path / link).symlink_to(tmp_path / "z")
    assert names(tmp_path) == ["z/1.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(io.ImageError, match=r"cannot list .*closed: Permission denied"):
        io.list_pictures(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(io.ImageError, match=r"cannot list .*nowhere: No such file"):
        io.list_pictures(tmp_path / "nowhere")
