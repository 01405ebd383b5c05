import os
from pathlib import Path

import pytest

from lmf import io


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    touched(root / "b" / "1.png", root / "a" / "2.JPG", outside / "deep" / "3.tif", outside / "notes.txt")
    touched(root / ".hidden" / "4.png", root / ".5.png")
    (root / "a" / "linked").symlink_to(outside)
    (root / "a" / "up").symlink_to(root)  # a loop
    (outside / "deep" / "back").symlink_to(outside)  # another
    (root / "a" / "twice").symlink_to(root / "b")  # has its own path
    (root / "a" / "6.png").symlink_to(outside / "deep" / "3.tif")
    (root / "a" / "broken.png").symlink_to(tmp_path / "nowhere")
    listed = [str(path.relative_to(root)) for path in io.list_pictures(root)]
    assert listed == ["a/2.JPG", "a/6.png", "a/linked/deep/3.tif", "b/1.png"]
    assert io.list_pictures(str(root)) == io.list_pictures(root)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    with pytest.raises(io.ImageError, match=f"cannot list {closed}"):
        io.list_pictures(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(io.ImageError, match=r"cannot list .*nowhere: No such file"):
        io.list_pictures(tmp_path / "nowhere")
