from pathlib import Path

import pytest

from lmf.io.files import making_folder


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


def test_a_file_of_that_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("a file")
    with pytest.raises(NotADirectoryError), making_folder(tmp_path / "made"):
        pass
    assert (tmp_path / "made").read_text() == "a file"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
