import subprocess
import sys
from pathlib import Path

import pytest

from lmf.training.loggers import run_id


def test_a_run_keeps_its_id(tmp_path: Path) -> None:
    first = run_id(tmp_path / "run")
    assert len(first) == 8
    assert run_id(tmp_path / "run") == first != run_id(tmp_path / "other")


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_id_counts_as_missing(tmp_path: Path, content: str) -> None:
    """A file system may keep only the name of a file that was being written when the machine stopped."""
    (tmp_path / "wandb_id").write_text(content)
    assert len(run_id(tmp_path)) == 8
    assert run_id(tmp_path) == run_id(tmp_path)


def test_ranks_that_start_at_once_agree(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from lmf.training.loggers import run_id
print("ready", flush=True)
sys.stdin.readline()
print([run_id(Path(sys.argv[1], str(i))) for i in range(200)])
"""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("\n")
        rank.stdin.flush()
    ids = [rank.communicate()[0] for rank in ranks]
    assert ids[0] == ids[1]
