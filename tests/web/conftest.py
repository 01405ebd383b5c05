"""A real server on a free port of this machine, and a client that sends exactly what a test says."""

import http.client
import io
import json
import threading
import time
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from lmf.web import Settings, create_app, methods
from lmf.web.run import listen


class Client:
    """Sends requests to a server; ``session`` is sent with each once `open` has been called."""

    def __init__(self, port):
        self.port, self.session, self.offer, self.number = port, None, None, 0

    def request(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.session is not None:
            headers.setdefault("lmf-session", self.session)
        if isinstance(body, dict):
            body, headers["content-type"] = json.dumps(body), "application/json"
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.content = answer.read()
        connection.close()
        return answer

    def json(self, *arguments, status=200, **headers):
        answer = self.request(*arguments, **headers)
        assert answer.status == status, (answer.status, answer.content[:300])
        return json.loads(answer.content)

    def open(self):
        self.offer = self.json("POST", "/api/session")
        self.session = self.offer["session"]
        return self

    def upload(self, data, name="photo.png", status=200):
        return self.json("POST", "/api/picture", data, lmf_name=quote(name), status=status)

    def ask(self, method, scale, rows, cols, **options):
        self.number += 1
        view = {"top": rows[0], "bottom": rows[1], "left": cols[0], "right": cols[1]}
        options = {"part": "a", "number": self.number, "raw": True, **options}
        return self.request("POST", "/api/frame", {"method": method, "scale": scale, **view, **options})

    def frame(self, *arguments, **options):
        """The pixels of a view, what the server says about it, and its levels, as soon as it can be rendered."""
        while (answer := self.ask(*arguments, **options)).status == 202:
            pass
        assert answer.status == 200, answer.content
        facts = json.loads(answer.headers["lmf-frame"])
        [part] = facts["parts"]
        content, levels = answer.content[: part["bytes"]], answer.content[part["bytes"] :]
        if options.get("raw", True):
            pixels = np.frombuffer(content, np.uint8).reshape(part["rows"], part["columns"], 4)
        else:
            pixels = np.asarray(Image.open(io.BytesIO(content)))
        return pixels, facts, levels

    def download(self, **order):
        """Order a file, wait for it and fetch it."""
        self.json("POST", "/api/download", order)
        while not (state := self.json("GET", "/api/download"))["file"]:
            time.sleep(0.02)
        return self.request("GET", state["file"])


@contextmanager
def running(app, port=0):
    """Run ``app`` in a thread; yields its port."""
    listener = listen("127.0.0.1", port)
    config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture(scope="session")
def known():
    """The methods that the tests offer."""
    return methods(["lm_liif_edsr", "lm_lte_edsr"], torch.device("cpu"))


@pytest.fixture
def serving(known):
    """``serving(**settings)`` is the context of a server with these settings; it yields a `Client`."""

    @contextmanager
    def serve(picture=None, **settings):
        with running(create_app(known, picture, Settings(**settings))) as port:
            yield Client(port)

    return serve


@pytest.fixture
def client(serving):
    with serving() as client:
        yield client.open()


def photo(height=30, width=42, mode="RGB", seed=0):
    """A smooth picture with detail."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, channels), dtype=np.uint8)
    bands = [Image.fromarray(noise[..., i]).resize((width, height), Image.Resampling.BICUBIC) for i in range(channels)]
    return Image.merge(mode, bands)


def saved(image, suffix="PNG", **options):
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()
