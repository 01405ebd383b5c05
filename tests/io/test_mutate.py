"""Tests that damaged pictures are either read or refused in one line."""

from pathlib import Path

from .mutate import campaign


def test_damaged_pictures(tmp_path: Path) -> None:
    outcomes, faults, _ = campaign(150, tmp_path, seed=1)
    assert not faults
    assert outcomes["refused"] > 50
    assert sum(outcomes.values()) == 150
