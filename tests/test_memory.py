"""Tests of how much memory is free."""

import numpy as np
import pytest

from lmf import SRModel, io
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.inference import files
from lmf.memory import available

MACHINE = "MemTotal:       24000000 kB\nMemAvailable:    8000000 kB\n"


def system(root, **group):
    for name, text in {"proc/meminfo": MACHINE, **{f"sys/fs/cgroup/memory.{k}": v for k, v in group.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 8_000_000 << 10),
        ({"max": "max\n", "current": "500\n", "stat": "anon 1\ninactive_file 100\n"}, 8_000_000 << 10),
        ({"max": "1000\n", "current": "500\n", "stat": "anon 1\ninactive_file 100\n"}, 600),
        ({"max": "1000\n", "current": "1500\n", "stat": "anon 1\ninactive_file 100\n"}, 0),
    ],
)
def test_available_memory(tmp_path, group, expected):
    assert available(system(tmp_path, **group)) == expected


def test_other_systems(tmp_path):
    assert available(tmp_path) is None


def test_a_picture_that_cannot_be_written_in_this_memory(tmp_path, monkeypatch, caplog):
    """It is refused before it is enlarged. Formats that are written in bands are not."""
    io.write(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    monkeypatch.setattr(files, "available", lambda: 30 * 20 * 40 - 1)
    model = SRModel(Identity(), Bicubic())
    for suffix, failed in ((".png", 0), (".webp", 1)):
        if failed:
            monkeypatch.setattr(files, "enlarged", None)
        assert files.run(model, [(tmp_path / "a.png", tmp_path / f"out{suffix}")], scale=2) == failed
        assert (tmp_path / f"out{suffix}").exists() == (not failed)
    assert "webp is compressed as a whole, 40 x 20 pixels need 0.0 GiB and 0.0 GiB are free; write .png" in caplog.text
