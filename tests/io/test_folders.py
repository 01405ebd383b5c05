import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmf.io.files import locked, making_folder, replacing, write_text


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    with making_folder(tmp_path / "new" / "made") as temporary:
        (temporary / "file").write_text("a")
        assert not (tmp_path / "new" / "made").exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "new",
        "new/made",
        "new/made/file",
    ]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), making_folder(tmp_path / "made") as temporary:
        temporary.write_text("a folder cannot be written to")
    assert not [*tmp_path.iterdir()]


def test_the_first_of_two_makers_wins(tmp_path: Path) -> None:
    with making_folder(tmp_path / "made") as slow:
        (slow / "file").write_text("slow")
        with making_folder(tmp_path / "made") as quick:
            (quick / "file").write_text("quick")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made/file").read_text() == "quick"


WRITE = "import pathlib; from lmf.io.files import write_text; write_text(pathlib.Path('other'), 'whole')"


def in_new_process(code: str, folder: Path) -> int:
    return subprocess.run([sys.executable, "-c", code], cwd=folder).returncode


def set_back(path: Path, seconds: float) -> None:
    """Make ``path`` and everything in it look ``seconds`` old."""
    then = path.stat().st_mtime - seconds
    for changed in (path, *path.rglob("*")):
        os.utime(changed, (then, then))


@pytest.mark.parametrize(("writer", "half"), [(making_folder, "(t / 'file')"), (replacing, "t")])
def test_the_next_process_removes_what_a_killed_one_left(writer, half, tmp_path: Path) -> None:
    code = (
        f"import os, pathlib, signal; from lmf.io.files import {writer.__name__} as writer\n"
        "with writer(pathlib.Path('made')) as t:\n"
        f"    {half}.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert in_new_process(code, tmp_path) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with making_folder(tmp_path / "made") as working:
        assert in_new_process(WRITE, tmp_path) == 0
        assert working.is_dir()  # its process is alive
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "other"]


def test_files_of_other_machines_stay_for_a_day(tmp_path: Path) -> None:
    """Their processes cannot be seen from here: containers may share a folder and a host name."""
    working = tmp_path / ".made.01234567-1-0123abcd.tmp"
    (working / "deep").mkdir(parents=True)
    (working / "deep" / "file").write_text("just written")
    for folder in (working, working / "deep"):
        os.utime(folder, (0, 0))
    assert in_new_process(WRITE, tmp_path) == 0
    assert (working / "deep" / "file").is_file()
    set_back(working, 100_000)
    assert in_new_process(WRITE, tmp_path) == 0
    assert not working.exists()


def test_writing_many_files_lists_their_folder_once(tmp_path: Path, monkeypatch) -> None:
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: [scandir(path), listed.append(path)][0])
    for i in range(5):
        write_text(tmp_path / f"{i}", "whole")
    assert listed == [str(tmp_path)]


def test_long_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)
    write_text(path, "whole")
    assert [*tmp_path.iterdir()] == [path]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path) as first, locked(tmp_path, wait=False) as second:
        assert (first, second) == (True, False)
    with locked(tmp_path, wait=False) as free:
        assert free


def test_a_file_of_that_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("a file")
    with pytest.raises(NotADirectoryError), making_folder(tmp_path / "made"):
        pass
    assert (tmp_path / "made").read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as full, replacing(tmp_path / "a.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert full.value.filename == str(tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as wrong:
        write_text(tmp_path / "file" / "a.txt", "text")
    assert wrong.value.filename == str(tmp_path / "file" / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
