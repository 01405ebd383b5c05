"""The server over HTTP: what it answers, what it refuses, and what it forgets."""

import io
import json
import socket
import threading
import time
from importlib import resources

import numpy as np
import pytest
import tifffile
from PIL import Image

import lmf
from lmf import errors
from lmf.web.handlers import Handlers
from lmf.web.run import listen
from lmf.web.scene import Scene

from .conftest import Client, photo, saved

FILES = {"/": "text/html", "/zoom.css": "text/css", "/zoom.js": "text/javascript", "/view.js": "text/javascript",
         "/server.js": "text/javascript", "/icon.svg": "image/svg+xml"}  # fmt: skip


def error(answer):
    return answer["error"]


# What a page needs


@pytest.mark.parametrize("path", FILES)
def test_the_page_is_served(client, path):
    answer = client.request("GET", path)
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, FILES[path])
    assert answer.content


def test_a_view_is_a_part_of_the_whole(client):
    image = photo()
    assert client.upload(saved(image))["picture"] == {"name": "photo.png", "height": 30, "width": 42}
    whole = np.asarray(lmf.load("lm_liif_edsr").upscale(image, scale=3.7)).astype(int)
    pixels, facts, _ = client.frame("lm_liif_edsr", 3.7, (20, 95), (-5, 140))
    assert (facts["top"], facts["left"], facts["rows"], facts["columns"]) == (20, 0, 75, 140)
    assert (facts["height"], facts["width"]) == whole.shape[:2]
    assert np.abs(pixels[..., :3] - whole[20:95, :140]).max() <= 1
    assert (pixels[..., 3] == 255).all()
    assert facts["macs"]["render"] == pytest.approx(75 * 140 * 6592, rel=0.02)
    packed, _, _ = client.frame("lm_liif_edsr", 3.7, (20, 95), (-5, 140), raw=False)
    np.testing.assert_array_equal(packed, pixels[..., :3])


@pytest.mark.parametrize("raw", [True, False])
def test_what_the_page_holds_is_not_sent_again(client, raw):
    client.upload(saved(photo()))
    whole, _, _ = client.frame("lm_liif_edsr", 4, (0, 120), (0, 168))
    held = {"top": -9, "bottom": 70, "left": 20, "right": 300}
    answer = client.ask("lm_liif_edsr", 4, (0, 120), (0, 168), held=held, raw=raw)
    facts, body, sent = json.loads(answer.headers["lmf-frame"]), answer.content, 0
    assert [facts[key] for key in ("top", "left", "rows", "columns")] == [0, 0, 120, 168]
    for part in facts["parts"]:
        own, body = body[: part["bytes"]], body[part["bytes"] :]
        shape = part["rows"], part["columns"], -1
        made = np.frombuffer(own, np.uint8).reshape(shape) if raw else np.asarray(Image.open(io.BytesIO(own)))
        rows, cols = (slice(part[a], part[a] + part[b]) for a, b in (("top", "rows"), ("left", "columns")))
        assert np.abs(made[..., :3].astype(int) - whole[rows, cols, :3]).max() <= 1
        sent += made[..., 0].size
    assert sent == 120 * 168 - 70 * 148
    assert body == b""


@pytest.mark.parametrize(("method", "resample"), [("bicubic", Image.BICUBIC), ("nearest", Image.NEAREST)])
def test_what_a_view_is_compared_with(client, method, resample):
    image = photo()
    client.upload(saved(image))
    expected = np.asarray(image.resize((42 * 4, 30 * 4), resample)).astype(int)
    pixels, _, _ = client.frame(method, 4, (0, 120), (0, 168))
    difference = np.abs(pixels[..., :3] - expected)
    assert difference.max() <= 2  # Pillow rounds twice
    assert difference.mean() < 0.5


def test_levels_follow_the_pixels(client):
    client.upload(saved(photo(60, 80)))
    _, facts, content = client.frame("lm_liif_edsr", 9.5, (100, 500), (0, 700), budget=0.4)
    levels = facts["levels"]
    index = np.frombuffer(content, np.uint8).reshape(levels["rows"], levels["columns"])
    assert levels["share"] <= 0.4
    assert sum(levels["rendered"]) == pytest.approx(levels["share"] * facts["rows"] * facts["columns"], rel=1e-3)
    assert len(levels["scales"]) > 1
    assert np.unique(index).tolist() == list(range(len(levels["scales"])))
    assert (levels["top"], levels["left"], *index.shape) == (0, 0, 60, 80)


def test_the_preview_is_the_picture(client):
    image = photo()
    client.upload(saved(image))
    answer = client.request("GET", "/api/preview")
    shown = Image.open(io.BytesIO(answer.content)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "avif"])
def test_downloads_in_every_format(client, suffix):
    image = photo()
    client.upload(saved(image), "my photo (1).png")
    if suffix not in client.offer["formats"]:
        pytest.skip(f"the installed Pillow does not write {suffix}")
    whole = np.asarray(lmf.load("lm_liif_edsr").upscale(image, size=(77, 108))).astype(int)
    answer = client.download(method="lm_liif_edsr", width=108, format=suffix, quality=95)
    assert f"my_photo_1_108x77.{suffix}" in answer.headers["content-disposition"]
    read = tifffile.imread if suffix == "tif" else Image.open
    made = np.asarray(read(io.BytesIO(answer.content))).astype(int)
    assert made.shape == whole.shape
    assert np.abs(made - whole).max() <= (1 if suffix in ("png", "tif") else 60)
    assert np.abs(made - whole).mean() < 3


def test_a_download_of_the_view(client):
    image = photo()
    client.upload(saved(image))
    whole = np.asarray(lmf.load("lm_liif_edsr").upscale(image, scale=5.3)).astype(int)
    order = {"scale": 5.3, "top": 30, "bottom": 90, "left": -4, "right": 100}
    answer = client.download(method="lm_liif_edsr", format="png", **order)
    assert np.abs(np.asarray(Image.open(io.BytesIO(answer.content))) - whole[30:90, :100]).max() <= 1


def test_metadata_is_kept(client):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    client.upload(saved(photo(), exif=exif, dpi=(100, 100)))
    made = Image.open(io.BytesIO(client.download(method="bicubic", scale=2, format="png").content))
    assert made.getexif()[0x010F] == "maker"


def test_a_new_order_replaces_the_old_one(client):
    client.upload(saved(photo()))
    first = client.json("POST", "/api/download", {"method": "bicubic", "scale": 2, "format": "png"})
    assert first == {"progress": 0}
    answer = client.download(method="bicubic", scale=3, format="png")
    assert Image.open(io.BytesIO(answer.content)).size == (126, 90)
    assert client.request("DELETE", "/api/download").status == 204
    assert "there is no download" in error(client.json("GET", "/api/download", status=400))


def test_the_body_of_a_short_answer_does_not_wait():
    """Nagle's algorithm holds it back until the header is acknowledged, which takes 40 ms."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# What it refuses


CORRUPT = {
    "no picture": b"hello",
    "empty": b"",
    "cut off": saved(photo(200, 300))[:5000],
    "damaged": saved(photo(200, 300))[:4000] + bytes(9000) + saved(photo(200, 300))[13000:],
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_file(client, kind):
    client.upload(saved(photo()))
    message = error(client.upload(CORRUPT[kind], "broken.png", status=400))
    assert message.startswith("broken.png: ")
    assert "/" not in message
    assert client.frame("bicubic", 2, (0, 60), (0, 84))[1]["width"] == 84  # the former picture stays


def test_a_picture_of_200_megapixels(client):
    huge = saved(Image.new("L", (20000, 10000)), compress_level=1)
    message = error(client.upload(huge, "huge.png", status=400))
    assert message == "huge.png: 20000 x 10000 pixels are more than the limit of 40 megapixels"


@pytest.mark.parametrize("declared", [True, False])
def test_too_many_bytes(serving, declared):
    with serving(max_bytes=5000) as client:
        client.open()
        data = bytes(6000)
        body = data if declared else iter([data[:3000], data[3000:]])  # else in chunks without content-length
        answer = client.request("POST", "/api/picture", body, lmf_name="big.png")
        assert answer.status == 413
        assert b"big.png: the file is larger than the limit of 0.00477 MiB" in answer.content


@pytest.mark.parametrize("name", ["../../etc/passwd", "C:\\temp\\x.png", "a/b.png", "\r\nx: y", "", "ü (1).png"])
def test_a_name_is_only_a_name(client, name):
    shown = client.upload(saved(photo()), name)["picture"]["name"]
    assert not set(shown) & set("/\\\r\n")
    disposition = client.download(method="bicubic", scale=2, format="png").headers["content-disposition"]
    assert "/" not in disposition
    assert ".." not in disposition


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/static/zoom.js", "/index.html", "/file/a", "/file/../x",
     "/api/frame/x",     "/api/preview/../../etc/passwd", "//etc/passwd", "/zoom.js/..%2fserver.py"],
)  # fmt: skip
def test_no_other_path_is_served(client, path):
    assert client.request("GET", path).status in (404, 405)


WRONG = [
    ({"scale": 0.4}, "scale must be a number from 0.5 to 32, got 0.4"),
    ({"scale": 33}, "scale must be a number from 0.5 to 32, got 33"),
    ({"scale": "2"}, "scale must be a number"),
    ({"scale": True}, "scale must be a number"),
    ({"scale": float("nan")}, "scale must be a number"),
    ({"scale": None}, "scale must be a number"),
    ({"top": 1.5}, "top must be a whole number, got 1.5"),
    ({"top": 10**30}, "top must be a whole number"),
    ({"bottom": 10**6, "right": 10**6}, "is larger than the limit of 16000000"),
    ({"top": 500, "bottom": 600}, "the view lies outside the picture"),
    ({"top": 9, "bottom": 5}, "the view lies outside the picture"),
    ({"top": -1000000, "bottom": 1, "left": 3, "right": -1000000}, "outside the picture"),
    ({"method": "other"}, "method must be one of lm_liif_edsr, lm_lte_edsr, bicubic, nearest, got 'other'"),
    ({"method": "../../etc/passwd"}, "method must be one of"),
    ({"method": ["bicubic"]}, "method must be a text"),
    ({"budget": 0}, "budget must be a number from 0.01 to 1, got 0"),
    ({"method": "bicubic", "budget": 0.5}, "bicubic has no tables"),
    ({"held": 3}, "held must be a rectangle, got 3"),
    ({"held": {"top": 1, "bottom": 2, "left": "x"}}, "left must be a whole number, got 'x'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=str)
def test_a_wrong_view(client, change, message):
    client.upload(saved(photo()))
    view = {
        "part": "a",
        "number": 1,
        "method": "lm_liif_edsr",
        "scale": 2,
        "top": 0,
        "bottom": 9,
        "left": 0,
        "right": 9,
    }
    while (answer := client.request("POST", "/api/frame", view | change)).status == 202:
        pass
    assert answer.status == 400
    assert message in answer.content.decode()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"format": "exe"}, "format must be one of png"),
        ({"format": "../x"}, "format must be one of png"),
        ({"width": 0}, "width must be from 1"),
        ({"width": 10**6}, "are more than the limit of 400 megapixels"),
        ({"scale": 40}, "scale must be a number from 0.5 to 32"),
        ({"quality": 101, "format": "jpg"}, "quality must be a whole number between 1 and 100"),
        ({"top": 5000, "bottom": 5001, "left": 0, "right": 1}, "outside the picture"),
    ],
)
def test_a_wrong_order(client, order, message):
    client.upload(saved(photo()))
    order = {"method": "bicubic", "scale": 2, "format": "png", **order}
    assert message in error(client.json("POST", "/api/download", order, status=400))


def test_jpeg_holds_no_alpha(client):
    client.upload(saved(photo(mode="RGBA")))
    order = {"method": "bicubic", "scale": 2, "format": "jpg"}
    assert "JPEG has no alpha channel" in error(client.json("POST", "/api/download", order, status=400))


@pytest.mark.parametrize("body", [b"[]", b"{", b"1", b"\xff", b'{"a": ' + b"1" * 20000 + b"}"])
def test_a_request_that_is_no_object(client, body):
    answer = client.request("POST", "/api/frame", body, content_type="application/json")
    assert answer.status in (400, 413)
    assert b"error" in answer.content


def test_no_picture_yet(client):
    assert "no picture yet" in error(client.json("GET", "/api/preview", status=400))
    assert client.ask("bicubic", 2, (0, 9), (0, 9)).status == 400


def test_a_fault_is_not_explained_to_the_page(client, monkeypatch):
    client.upload(saved(photo()))

    def broken(*arguments, **options):
        raise RuntimeError("secret")

    monkeypatch.setattr(Scene, "frame", broken)
    while (answer := client.ask("bicubic", 2, (0, 9), (0, 9))).status == 202:
        pass
    assert (answer.status, answer.content) == (500, b'{"error":"the server has a fault; its log shows more"}')


def test_a_full_disk(client, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(Handlers, "read", full)
    message = error(client.upload(saved(photo()), status=507))
    assert message == "the server has no memory or disk left for this"
    assert errors.explain(OSError(28, "No space left on device"))


# Other sites


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1", "[::1]:8000", "192.168.1.5:8000"])
def test_hosts_that_are_served(client, host):
    assert client.request("GET", "/", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.nip.io", ""]
)
def test_a_rebound_name_is_refused(client, host):
    for path in ("/", "/api/preview", "/zoom.js"):
        answer = client.request("GET", path, host=host)
        assert answer.status == 403
        assert b"is not served here; start the server with --allow-host" in answer.content


def test_a_name_that_is_allowed(serving):
    with serving(hosts=("zoom.example",)) as client:
        assert client.request("GET", "/", host="Zoom.Example:443").status == 200
        assert client.request("GET", "/", host="other.example").status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_requests_of_other_sites_are_refused(client, headers):
    for method, path in (
        ("POST", "/api/session"),
        ("POST", "/api/close"),
        ("GET", "/zoom.js"),
        ("GET", "/api/preview"),
    ):
        answer = client.request(method, path, **headers)
        assert (answer.status, answer.content) == (403, b'{"error":"requests from other sites are refused"}')


def test_requests_of_the_page_are_answered(client):
    origin = f"http://127.0.0.1:{client.port}"
    assert client.request("POST", "/api/session", origin=origin, sec_fetch_site="same-origin").status == 200
    assert client.request("GET", "/", sec_fetch_site="cross-site").status == 200  # a link to the page


def test_no_answer_lets_other_sites_in(client):
    for answer in (
        client.request("GET", "/"),
        client.request("GET", "/api/preview"),
        client.request("GET", "/", host="x"),
    ):
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers or "uvicorn" in answer.headers["server"]


def test_the_page_has_nothing_inline():
    page = (resources.files("lmf.web") / "static" / "index.html").read_text()
    assert " style=" not in page
    assert "<style" not in page
    assert " on" not in page.replace(" on ", " ").replace(" one", " ")  # no event attributes
    assert page.count("<script") == page.count('<script type="module" src="zoom.js"></script>') == 1
    assert "//" not in page  # nothing from elsewhere


def test_a_session_is_needed(serving):
    with serving() as client:
        for method, path in (("GET", "/api/preview"), ("POST", "/api/picture"), ("POST", "/api/frame"),
                             ("POST", "/api/download"), ("GET", "/api/download")):  # fmt: skip
            answer = client.request(method, path)
            assert answer.status == 404
            assert b"reload the page" in answer.content


# Several pages


def test_two_pages_do_not_see_each_other(client):
    client.upload(saved(photo()))
    other = Client(client.port).open()
    assert other.offer["picture"] is None
    assert other.request("GET", "/api/preview").status == 400
    other.upload(saved(photo(20, 20, seed=1)), "other.png")
    assert client.frame("bicubic", 2, (0, 60), (0, 84))[1]["width"] == 84
    assert other.frame("bicubic", 2, (0, 40), (0, 40))[1]["width"] == 40
    other.session, theirs = client.session, other.session
    other.request("POST", "/api/close", theirs)
    assert client.frame("bicubic", 2, (0, 60), (0, 84))[1]["width"] == 84


def test_too_many_pages(serving):
    with serving(sessions=2) as client:
        first, _ = client.open(), Client(client.port).open()
        message = error(Client(client.port).json("POST", "/api/session", status=503))
        assert "2 pages are open, which is the limit" in message
        first.request("POST", "/api/close", first.session)
        Client(client.port).open()


def test_an_idle_page_is_forgotten(serving):
    with serving(idle=0.3) as client:
        client.open().upload(saved(photo()))
        for _ in range(5):
            time.sleep(0.15)
            assert client.request("GET", "/api/preview").status == 200  # not idle
        time.sleep(0.7)
        assert client.request("GET", "/api/preview").status == 404


def test_a_newer_view_supersedes_an_older_one(client, monkeypatch):
    go, answers = threading.Event(), {}
    encode = Scene.encode
    monkeypatch.setattr(Scene, "encode", lambda self, tile: [go.wait(20), encode(self, tile)])
    monkeypatch.setattr("lmf.web.handlers.PATIENCE", 20)
    client.upload(saved(photo()))

    def ask(number, part):
        answers[number, part] = client.ask("bicubic", 2, (0, 9), (0, 9), number=number, part=part)

    threads = {}
    for number, part in ((1, "a"), (1, "b"), (2, "a")):
        threads[number, part] = threading.Thread(target=ask, args=(number, part))
        threads[number, part].start()
        time.sleep(0.3)
    threads[1, "a"].join(5)
    assert answers[1, "a"].status == 204  # at once, although nothing is encoded
    assert (2, "a") not in answers
    go.set()
    for thread in threads.values():
        thread.join(20)
    assert answers[2, "a"].status == answers[1, "b"].status == 200
    assert client.ask("bicubic", 2, (0, 9), (0, 9), number=1).status == 204


def test_the_page_hears_how_far_the_encoder_is(client, monkeypatch):
    go, encode = threading.Event(), Scene.encode
    monkeypatch.setattr(Scene, "encode", lambda self, tile: [go.wait(20), encode(self, tile)])
    monkeypatch.setattr("lmf.web.handlers.PATIENCE", 0.05)
    client.upload(saved(photo()))
    answer = client.ask("bicubic", 2, (0, 9), (0, 9))
    go.set()
    assert (answer.status, answer.content) == (202, b'{"encoded":0.0}')
