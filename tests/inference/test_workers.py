"""Pictures shared over processes, some of which die."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lmf
from lmf import kernels
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.inference import files, planning, workers
from lmf.model import SRModel

from ..conftest import ROOT

CPU = torch.device("cpu")
DEADLY = 13  # height of pictures that kill the process


class Mortal(SRModel):
    """Bicubic interpolation that kills its process on some pictures."""

    def features(self, image):
        if image.shape[-2] == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().features(image)


def photos(folder, heights):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, height in enumerate(heights):
        Image.fromarray(rng.integers(0, 256, (height, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture
def mortal():
    return Mortal(Identity(), Bicubic())


@pytest.mark.ddp
def test_a_dead_worker_costs_its_picture_alone(tmp_path, mortal, caplog):
    caplog.set_level("INFO")
    heights = [10, DEADLY, 11, 9, 8]
    source, output = photos(tmp_path / "in", heights), str(tmp_path / "out")
    jobs = planning.plan(source, output, 2, None)
    assert workers.run(mortal, jobs, [CPU, CPU], scale=2) == 1
    shown = [name for name in os.listdir(output) if not name.startswith(".")]  # the next process removes the others
    assert sorted(shown) == ["0_x2.png", "2_x2.png", "3_x2.png", "4_x2.png"]
    lines = [message for message in caplog.messages if "SIGKILL" in message]
    assert len(lines) == 1
    assert lines[0].startswith(f"{source}/1.png: worker ")
    assert "was killed by SIGKILL; the others continue" in lines[0]
    assert len([message for message in caplog.messages if " -> " in message]) == 4  # forwarded lines
    with Image.open(tmp_path / "in" / "0.png") as before, Image.open(tmp_path / "out" / "0_x2.png") as after:
        assert np.array_equal(np.asarray(after), mortal.upscale(np.asarray(before), scale=2))
    # A second call has one picture left.
    assert [job[0].name for job in planning.plan(source, output, 2, None)] == ["1.png"]


@pytest.mark.ddp
def test_without_workers_left_the_rest_counts_as_failed(tmp_path, mortal, caplog):
    source = photos(tmp_path / "in", [DEADLY, DEADLY, 10, 11])
    jobs = planning.plan(source, str(tmp_path / "out"), 2, None)
    done = len(jobs) - workers.run(mortal, jobs, [CPU, CPU], scale=2)
    assert len(list((tmp_path / "out").glob("*_x2.png"))) == done
    assert "2 of 4 pictures were not started" in caplog.text


@pytest.mark.ddp
def test_workers_compute_encoders_as_chosen(tmp_path):
    source = Path(photos(tmp_path / "in", [40, 41]))
    model = lmf.load("lm_liif_edsr")
    with kernels.encoder("bf16"):
        for name, run in (("one", files.run), ("two", partial(workers.run, devices=[CPU, CPU]))):
            run(model, [(source / f"{i}.png", tmp_path / name / f"{i}.png") for i in range(2)], scale=2)
    files.run(model, [(source / "0.png", tmp_path / "exact.png")], scale=2)
    pixels = {name: np.asarray(Image.open(tmp_path / name)) for name in ("one/0.png", "two/0.png", "exact.png")}
    assert np.array_equal(pixels["one/0.png"], pixels["two/0.png"])
    assert not np.array_equal(pixels["one/0.png"], pixels["exact.png"])


@pytest.mark.ddp
def test_a_damaged_picture_is_named(tmp_path, mortal, caplog):
    source = photos(tmp_path / "in", [8, 9, 10])
    (tmp_path / "in" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    jobs = [(tmp_path / "in" / f"{i}.png", tmp_path / "out" / f"{i}.png") for i in range(3)]
    assert workers.run(mortal, jobs, [CPU, CPU], scale=2) == 1
    assert "1.png: cannot read image" in caplog.text
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "2.png"]
    assert source


@pytest.mark.parametrize("finished", [[], [0, 1, 4], [0, 1, 2, 3, 4]])
def test_shares_do_not_depend_on_what_is_there(tmp_path, finished):
    source, output = photos(tmp_path / "in", [8] * 5), tmp_path / "out"
    output.mkdir()
    for i in finished:
        (output / f"{i}_x2.png").touch()
    shares = [planning.plan(source, str(output), 2, None, share=(rank, 2)) for rank in (0, 1)]
    names = [[int(path.stem) for path, _ in share] for share in shares]
    assert names[0] == [i for i in (0, 2, 4) if i not in finished]
    assert names[1] == [i for i in (1, 3) if i not in finished]


@pytest.mark.ddp
def test_the_devices_of_a_trainer_share_the_pictures(tmp_path):
    source = photos(tmp_path / "in", [8, 9, 10])
    options = ["task=upscale", "experiment=bicubic", f"input={source}", f"output={tmp_path}/out", "scale=2.5"]
    command = [sys.executable, str(ROOT / "run.py"), *options, "trainer.accelerator=cpu", "trainer.devices=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["0_x2.5.png", "1_x2.5.png", "2_x2.5.png"]
    assert (done.stdout + done.stderr).count(" -> ") == 3


def test_one_of_several_processes_shows_no_summary(tmp_path, mortal, caplog):
    caplog.set_level("INFO")
    source = photos(tmp_path / "in", [8])
    jobs = planning.plan(source, str(tmp_path / "out"), 2, None)
    assert files.run(mortal, jobs, scale=2, alone=False) == 0
    assert "peak memory" not in caplog.text
