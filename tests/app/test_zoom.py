"""`lmf zoom` and `task=zoom` as processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest
from PIL import Image

from lmf.app import cli

from ..conftest import ROOT

pytest.importorskip("uvicorn", reason="needs the extra web")

ZOOM = (sys.executable, "-m", "lmf", "zoom", "--port", "0", "--no-browser")
TASK = (sys.executable, str(ROOT / "run.py"), "task=zoom", "port=0", "browser=false", "paths.runs=runs")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def place(tmp_path):
    Image.radial_gradient("L").convert("RGB").resize((40, 30)).save(tmp_path / "photo (1).png")
    return tmp_path


@contextmanager
def started(command, place):
    """Run ``command`` until it says where the page is; yields the process and the address."""
    with subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stderr=subprocess.STDOUT, stdout=subprocess.PIPE,
                          text=True) as process:  # fmt: skip
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        else:
            pytest.fail("".join(said))
        try:
            yield process, found[0]
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("command", [(*ZOOM, "photo (1).png"), (*TASK, "input=photo (1).png")], ids=["lmf", "task"])
def test_it_serves_the_page_until_a_signal(command, place):
    with started(command, place) as (process, address):
        assert b"lmf zoom" in urllib.request.urlopen(address).read()
        request = urllib.request.Request(f"{address}api/session", method="POST")
        offer = json.loads(urllib.request.urlopen(request).read())
        assert offer["picture"] == {"name": "photo (1).png", "height": 30, "width": 40}
        assert [m["name"] for m in offer["methods"]][-2:] == ["bicubic", "nearest"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130)
        assert "Traceback" not in process.stdout.read()


@pytest.mark.slow
def test_a_signal_while_features_are_computed(place):
    Image.radial_gradient("L").convert("RGB").resize((700, 700)).save(place / "large.png")
    with started((*ZOOM, "large.png"), place) as (process, address):
        opened = urllib.request.urlopen(urllib.request.Request(f"{address}api/session", method="POST"))
        view = {"part": "a", "number": 1, "method": "lm_liif_edsr", "scale": 1}
        asked = json.dumps(view | {"top": 0, "bottom": 700, "left": 0, "right": 700}).encode()
        headers = {"content-type": "application/json", "lmf-session": json.loads(opened.read())["session"]}
        answer = urllib.request.urlopen(urllib.request.Request(f"{address}api/frame", asked, headers))
        assert json.loads(answer.read())["encoded"] < 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
        assert process.stdout.read() == ""


@pytest.fixture
def fails(place, monkeypatch, capsys):
    """``fails(*arguments)`` returns the one line that `lmf zoom` fails with."""

    def failing(*arguments):
        monkeypatch.chdir(place)
        with pytest.raises(SystemExit) as caught:
            cli.main([*ZOOM[3:], *arguments])
        assert caught.value.code in (1, 2)
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    return failing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.png",), "nothing.png: no such image"),
        (("photo (1).png", "--max-pixels", "1000"), "40 x 30 pixels are more than the limit of 0.001 megapixels"),
        (("--model", "nothing"), "nothing: no such checkpoint"),
        (("--model", "lm_liif_edsr", "--model", "lm_liif_edsr"), "another model is called 'lm_liif_edsr'"),
        (("--port", "70000"), "port must be from 0 to 65535, got 70000"),
        (("--host", "192.0.2.1"), "cannot listen on 192.0.2.1, port 0"),
        (("--idle", "0"), "idle must be positive, got 0.0"),
        (("--prot", "1"), "unrecognized arguments: --prot"),
    ],
)
def test_what_the_user_can_mend_is_one_line(fails, arguments, message):
    assert message in fails(*arguments)


def test_a_port_in_use(fails):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in fails("--port", port)


@pytest.mark.slow
def test_a_missing_extra_is_named(place):
    code = "import sys; sys.modules['starlette'] = None; from lmf.app.cli import main; main(['zoom'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'lmf[web]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_other_extras_are_not_needed(place):
    names = ("lightning", "hydra", "omegaconf", "torchmetrics", "kornia", "wandb", "matplotlib", "skimage")
    missing = f"import sys; sys.modules.update(dict.fromkeys({names}))"
    code = f"{missing}\nfrom lmf.app.cli import main; main(['zoom', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--allow-host" in done.stdout
