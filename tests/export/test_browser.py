"""The page of the documentation enlarges a picture in Chromium, as Python does."""

from __future__ import annotations

import base64
import importlib.util
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import lmf

from ..conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = [
    *(["npm"] if not shutil.which("npm") else []),
    *(["Chromium"] if not CHROMIUM else []),
    *(name for name in ("playwright", "onnx", "onnxscript") if not importlib.util.find_spec(name)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page with everything it loads."""
    if MISSING:
        pytest.skip(f"needs {', '.join(MISSING)}")
    target = tmp_path_factory.mktemp("page")
    done = subprocess.run(
        [sys.executable, ROOT / "docs/browser/build.py", target], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr
    return target


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Isolated(Quiet):
    """Sends the headers that allow threads."""

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


@pytest.fixture(params=[Quiet, Isolated], ids=["one thread", "threads"])
def address(request, folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(request.param, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/enlarge.html"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(address):
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 800, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(address)
        page.wait_for_function("!document.getElementById('go').disabled")
        yield page
        browser.close()


def enlarged(page, scale):
    """Press the button; return the picture (H, W, 3) and the line with the times."""
    page.fill("#scale", str(scale))
    page.click("#go")
    page.wait_for_selector("#status[data-done]")
    line = page.inner_text("#status")
    assert page.get_attribute("#status", "data-state") == "ok", line
    url = page.evaluate("document.getElementById('after').toDataURL('image/png')")
    return np.asarray(Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")), line


def test_a_picture_is_enlarged_as_in_python(page, folder):
    example = np.asarray(Image.open(folder / "files" / "example.png"))
    model = lmf.load("lm_liif_edsr")
    for scale in (3.7, 2):
        picture, line = enlarged(page, scale)
        print(f"x{scale}: {line}")
        right = model.upscale(np.float32(example) / 255, scale=scale)
        assert picture.shape == right.shape
        assert np.abs(picture - right * 255).max() < 0.5 + 255e-4  # rounded to 8 bits
    threads = page.evaluate("crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1")
    assert line.endswith("1 thread" if threads == 1 else f"{threads} threads")
    shots = ROOT / "build" / "screenshots"
    shots.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=shots / "enlarge.png", full_page=True)


def test_mistakes_are_answered(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    page.set_input_files("#file", tmp_path / "broken.png")
    page.wait_for_selector("#status[data-state=error]")
    assert "not a picture" in page.inner_text("#status")
    page.fill("#scale", "90")
    page.click("#go")
    assert "from 1 to 8" in page.inner_text("#status")


def test_a_large_picture_is_reduced(page, tmp_path):
    Image.new("RGB", (640, 320), "teal").save(tmp_path / "large.png")
    page.set_input_files("#file", tmp_path / "large.png")
    page.wait_for_function("document.getElementById('status').textContent.includes('reduced from 640x320')")
    width, height = page.evaluate("(c => [c.width, c.height])(document.getElementById('before'))")
    assert width * height <= 160 * 160
    assert abs(width / height - 2) < 0.02
