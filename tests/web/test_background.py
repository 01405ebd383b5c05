"""Threads that are at work when the process ends; each program aborted it before they were waited for."""

import os
import subprocess
import sys

import pytest

from ..conftest import ROOT

SCENE = """
import time
import numpy as np, torch
from lmf import io
from lmf.inference.stores import Cache
from lmf.web import Picture, methods
from lmf.web.downloads import Download, Order
from lmf.web.scene import Scene
from lmf.web.turns import Turns

method = methods(["lm_liif_edsr"], torch.device("cpu"))["{method}"]
picture = Picture("photo", io.Picture(np.zeros(({side}, {side}, 3), np.uint8), io.Metadata()), "me")
scene = Scene(picture, method, Cache(), Turns())
"""
ENCODING = SCENE.format(method="lm_liif_edsr", side=300) + "time.sleep(0.1)\nassert scene.encoded < 1"
WRITING = (
    SCENE.format(method="bicubic", side=300)
    + """
order = Order((6000, 6000), None, "png", 95)
download = Download(scene, order, "me", Turns(), 10**9)
while not download.progress > 0.5:
    time.sleep(0.01)
assert not download.done
"""
)


@pytest.mark.parametrize("program", [ENCODING, WRITING], ids=["encoding", "writing"])
def test_the_process_ends_as_it_should(program):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
