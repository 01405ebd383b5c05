"""The page in Chromium. The screenshots of the documentation are made here: ``LMF_SCREENSHOTS=docs/images``."""

import base64
import io
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lmf
from lmf.io import Metadata
from lmf.io import Picture as Page
from lmf.web import Picture, Settings, create_app

from .conftest import photo, running, saved

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.browser

BINARIES = ("chromium", "chromium-browser", "google-chrome")
EXACT = "#canvas[data-state=exact]"
PATIENCE = 120_000  # milliseconds


@pytest.fixture(scope="module")
def chromium():
    """A browser of the system, or Playwright's own."""
    with sync_api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BINARIES)), None)
        options = {"executable_path": found} if found else {}
        if not found and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium: apt install chromium, or playwright install chromium")
        browser = playwright.chromium.launch(args=["--no-sandbox"], **options)  # as root it needs this
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def image():
    """A part of a photograph."""
    data = pytest.importorskip("skimage.data", reason="needs scikit-image")
    return Image.fromarray(data.coffee()).crop((150, 100, 294, 196))


@pytest.fixture(scope="module")
def app(known, image):
    picture = Picture("coffee.png", Page(np.asarray(image), Metadata()), "first")
    return create_app(known, picture, Settings(max_bytes=3_000_000))


@pytest.fixture(scope="module")
def address(app):
    with running(app) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def visit(chromium, address):
    """Return ``visit(**options)``, which opens the page in a new window; errors of the page fail the test."""
    contexts, faults = [], []

    def opened(path=address, **options):
        context = chromium.new_context(**{"viewport": {"width": 700, "height": 560}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if "Policy" in message.text else None)
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def zoom(page, scale):
    page.fill("#scale", str(scale))
    page.press("#scale", "Enter")
    page.wait_for_selector(EXACT)
    assert page.input_value("#scale") == str(scale)


def shown(page):
    """The pixels of the canvas (H, W, 4)."""
    url = page.evaluate("() => document.getElementById('canvas').toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def window(page, size, shape):
    """The rows and columns of a picture of ``size`` on a canvas of ``shape``, and where on the canvas they begin."""
    spans = []
    for origin, n, visible in zip(page.get_attribute("#canvas", "data-origin").split(), size, shape, strict=True):
        assert abs(int(origin) + visible / 2 - n / 2) <= 1, "nothing has moved the picture from the centre"
        spans.append((max(0, int(origin)), min(n, int(origin) + visible), max(0, -int(origin))))
    return spans


def expect_region(page, model, image, scale, columns=slice(None)):
    """Assert that the canvas shows what ``model.upscale`` returns, pixel by pixel."""
    whole = np.asarray(model.upscale(image, scale=scale)).astype(int)
    canvas = shown(page)
    (top, bottom, y), (left, right, x) = window(page, whole.shape[:2], canvas.shape[:2])
    made = canvas[y : y + bottom - top, x : x + right - left].astype(int)
    expected = whole[top:bottom, left:right]
    difference = np.abs(made[:, columns, :3] - expected[:, columns])
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 0.01
    assert (made[..., 3] == 255).all()
    return expected.shape


def screenshot(page, name):
    folder = os.environ.get("LMF_SCREENSHOTS")
    if folder:
        data = page.screenshot(path=None)
        Image.open(io.BytesIO(data)).convert("RGB").save(Path(folder) / f"{name}.webp", quality=85, method=6)


@contextmanager
def dropped(page, name, data):
    """Drop a file on the page, as a user does."""
    content = base64.b64encode(data).decode()
    transfer = page.evaluate_handle(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, content],
    )
    page.dispatch_event("#stage", "dragover", {"dataTransfer": transfer})
    assert "over" in page.get_attribute("#stage", "class")
    page.dispatch_event("#stage", "drop", {"dataTransfer": transfer})
    yield
    assert "over" not in page.get_attribute("#stage", "class")


@pytest.mark.parametrize("scale", [3.7, 8, 0.5])
def test_every_pixel_is_that_of_the_model(visit, image, scale):
    page = visit()
    page.wait_for_selector(EXACT)
    zoom(page, scale)
    shape = expect_region(page, lmf.load("lm_liif_edsr"), image, scale)
    figures = page.inner_text("#figures")
    assert f"{shape[1]}×{shape[0]} of {round(144 * scale)}×{round(96 * scale)}" in figures
    assert f"{shape[0] * shape[1]:,} pixels rendered" in figures
    assert " ms " in figures
    assert " GMAC " in figures


def test_a_coarse_view_at_once(visit, image):
    """Before a frame arrives, the page shows the picture itself, enlarged by the browser."""
    page = visit()
    page.wait_for_selector(EXACT)
    page.route("**/api/frame", lambda route: None)  # answers never come
    page.fill("#scale", "6")
    page.press("#scale", "Enter")
    page.wait_for_timeout(200)
    assert page.get_attribute("#canvas", "data-state") == "coarse"
    canvas = shown(page)
    expected = np.asarray(image.resize((864, 576), Image.BICUBIC)).astype(int)
    (top, bottom, y), (left, right, x) = window(page, (576, 864), canvas.shape[:2])
    made = canvas[y : y + bottom - top, x : x + right - left, :3].astype(int)
    assert (canvas[y : y + bottom - top, x : x + right - left, 3] == 255).all()
    assert np.abs(made - expected[top:bottom, left:right]).mean() < 6


def test_dropping_a_picture(visit):
    page = visit()
    other = photo(50, 70, seed=3)
    with dropped(page, "my picture.png", saved(other)):
        page.wait_for_function("() => document.getElementById('name').textContent === 'my picture.png'")
    page.wait_for_selector(EXACT)
    zoom(page, 3.7)
    expect_region(page, lmf.load("lm_liif_edsr"), other, 3.7)
    assert "70 by 50 pixels" in page.get_attribute("#canvas", "aria-label")


def test_choosing_a_file_and_a_model(visit):
    page, other = visit(), photo(40, 60, seed=4)
    page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": saved(other)})
    page.wait_for_function("() => document.getElementById('name').textContent === 'b.png'")
    page.select_option("#model", "lm_lte_edsr")
    page.wait_for_selector(EXACT)
    zoom(page, 5.1)
    expect_region(page, lmf.load("lm_lte_edsr"), other, 5.1)


def test_comparing(visit, image):
    page = visit()
    page.wait_for_selector(EXACT)
    page.select_option("#compare", "nearest")
    zoom(page, 4)
    canvas, nearest = shown(page), np.asarray(image.resize((576, 384), Image.NEAREST)).astype(int)
    (top, bottom, y), (left, right, x) = window(page, (384, 576), canvas.shape[:2])
    made = canvas[y : y + bottom - top, x : x + right - left, :3].astype(int)
    middle = canvas.shape[1] // 2 - x + left
    np.testing.assert_array_equal(made[:, middle + 1 :], nearest[top:bottom, left + middle + 1 : right])
    expect_region(page, lmf.load("lm_liif_edsr"), image, 4, slice(0, middle - 1))
    assert page.inner_text("#right-label") == "nearest"

    page.focus("#divider")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#divider", "aria-valuenow") == "30"
    box = page.locator("#divider").bounding_box()
    page.mouse.move(box["x"] + 22, 300)
    page.mouse.down()
    page.mouse.move(600, 300, steps=4)
    page.mouse.up()
    assert page.get_attribute("#divider", "aria-valuenow") == "86"


def test_levels_and_their_budget(visit):
    page = visit()
    page.wait_for_selector(EXACT)
    zoom(page, 9.3)
    plain = shown(page).astype(int)
    page.check("#cmsr")
    page.wait_for_selector("#legend:not([hidden])")
    page.wait_for_selector(EXACT)
    assert "(3" in page.inner_text("#figures") or "(2" in page.inner_text("#figures")  # at most 40 %
    assert len(page.query_selector_all("#legend li")) > 2
    coloured = shown(page).astype(int)
    assert np.abs(coloured - plain).mean() > 10
    page.locator("#budget").fill("100")
    assert page.inner_text("#budget-value") == "100 %"
    page.wait_for_selector(EXACT)
    page.select_option("#model", "bicubic")
    assert page.is_disabled("#budget")
    page.wait_for_selector(EXACT)
    assert page.is_hidden("#legend")


def test_dragging_wheel_and_keys(visit, image):
    page = visit()
    page.wait_for_selector(EXACT)
    zoom(page, 8)
    before = shown(page).astype(int)
    page.mouse.move(350, 300)
    page.mouse.down()
    page.mouse.move(310, 270, steps=5)
    page.mouse.up()
    page.wait_for_selector(EXACT)
    moved = shown(page).astype(int)
    np.testing.assert_array_equal(moved[:-30, :-40], before[30:, 40:])
    whole = np.asarray(lmf.load("lm_liif_edsr").upscale(image, scale=8)).astype(int)
    top, left = map(int, page.get_attribute("#canvas", "data-origin").split())
    height, width = moved.shape[:2]
    assert np.abs(moved[..., :3] - whole[top : top + height, left : left + width]).max() <= 1
    anew = int(page.inner_text("#figures").split(" · ")[2].split(" ")[0].replace(",", ""))
    assert 0 < anew <= height * 40 + width * 30  # the rest is there already

    page.mouse.wheel(0, -300)
    page.wait_for_function("() => +document.getElementById('scale').value > 8")
    page.wait_for_selector(EXACT)
    assert float(page.input_value("#scale")) == pytest.approx(8 * np.exp(0.45), rel=1e-3)
    page.focus("#canvas")
    page.keyboard.press("0")
    page.wait_for_selector(EXACT)
    fitted = float(page.input_value("#scale"))
    page.keyboard.press("+")
    page.wait_for_function(f"() => +document.getElementById('scale').value > {fitted}")
    assert float(page.input_value("#scale")) == pytest.approx(1.25 * fitted, rel=1e-3)


def test_the_scale_has_limits(visit):
    page = visit()
    page.wait_for_selector(EXACT)
    for asked, used in (("100", "32"), ("0.01", "0.5"), ("", "0.5")):
        page.fill("#scale", asked)
        page.press("#scale", "Enter")
        assert page.input_value("#scale") == used


def test_pinching_on_a_phone(visit):
    page = visit(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.wait_for_selector(EXACT)
    before = float(page.input_value("#scale"))
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (160, 350), (200, 350))
    for step in range(1, 11):
        touch("touchMove", (160 - 2 * step, 350), (200 + 2 * step, 350))
    touch("touchEnd")
    page.wait_for_function(f"() => +document.getElementById('scale').value > {1.5 * before}")
    assert float(page.input_value("#scale")) == pytest.approx(2 * before, rel=0.02)
    page.wait_for_selector(EXACT)


def test_a_narrow_window(visit):
    page = visit(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.wait_for_selector(EXACT)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    stage = page.locator("#stage").bounding_box()
    assert stage["height"] >= 320
    page.click("#more summary")
    for name in ("file", "model", "out", "scale", "in", "fit", "compare", "cmsr", "budget", "download"):
        box = page.locator("label[for=file]" if name == "file" else f"#{name}").bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 360, name
    page.select_option("#compare", "bicubic")
    page.wait_for_selector(EXACT)
    screenshot(page, "zoom_phone")


def test_nothing_is_asked_for_while_nothing_changes(visit):
    page, asked = visit(), []
    page.wait_for_selector(EXACT)
    page.wait_for_timeout(300)
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert asked == []


@pytest.mark.parametrize("what", ["view", "whole"])
def test_downloading(visit, image, what):
    page = visit()
    page.wait_for_selector(EXACT)
    zoom(page, 3.7)
    page.click("#download")
    page.check(f"input[value={what}]")
    if what == "whole":
        page.fill("#order-width", "300")
        expected = np.asarray(lmf.load("lm_liif_edsr").upscale(image, size=(200, 300))).astype(int)
    else:
        expected = np.asarray(lmf.load("lm_liif_edsr").upscale(image, scale=3.7)).astype(int)
        (top, bottom, _), (left, right, _) = window(page, expected.shape[:2], shown(page).shape[:2])
        expected = expected[top:bottom, left:right]
    page.select_option("#format", "tif")
    assert page.is_hidden("#quality")
    page.select_option("#format", "png")
    with page.expect_download() as download:
        page.click("#start")
    made = np.asarray(Image.open(download.value.path()))
    assert download.value.suggested_filename == f"coffee_{expected.shape[1]}x{expected.shape[0]}.png"
    assert made.shape == expected.shape
    assert np.abs(made - expected).max() <= 1


def test_a_download_that_is_refused(visit):
    page = visit()
    page.wait_for_selector(EXACT)
    page.click("#download")
    page.check("input[value=whole]")
    page.fill("#order-width", "1000000")
    page.click("#start")
    page.wait_for_function(
        "() => document.getElementById('order-state').textContent.includes('limit of 400 megapixels')"
    )
    page.click("#cancel")
    assert page.is_hidden("#dialog")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("broken.png", b"\x89PNG\r\n\x1a\nrubbish", "broken.png: "),
        ("notes.txt", b"no picture", "notes.txt: it is none of PNG"),
        ("long.png", bytes(3_000_001), "long.png: the file is larger than the limit of 2.86 MiB"),
        (
            "huge.png",
            saved(Image.new("1", (20000, 10000))),
            "huge.png: 20000 x 10000 pixels are more than the limit of 40",
        ),
    ],
)
def test_a_bad_file_is_reported(visit, image, name, data, message):
    page = visit()
    page.wait_for_selector(EXACT)
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    page.wait_for_selector("#alert:not([hidden])")
    assert page.inner_text("#alert").startswith(message)
    if name == "huge.png":
        screenshot(page, "zoom_error")
    zoom(page, 3)  # the former picture is still there
    expect_region(page, lmf.load("lm_liif_edsr"), image, 3)


def test_two_tabs(visit, image):
    first, second, other = visit(), visit(), photo(40, 60, seed=5)
    second.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": saved(other)})
    second.wait_for_function("() => document.getElementById('name').textContent === 'b.png'")
    for page, scale in ((first, 3.1), (second, 4.6)):
        page.fill("#scale", str(scale))
        page.press("#scale", "Enter")
    for page, picture, scale in ((first, image, 3.1), (second, other, 4.6)):
        page.wait_for_selector(EXACT)
        expect_region(page, lmf.load("lm_liif_edsr"), picture, scale)


def test_a_lost_connection(visit, known):
    other = photo(40, 60, seed=6)
    with running(create_app(known)) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        page.set_input_files("#file", {"name": "b.png", "mimeType": "image/png", "buffer": saved(other)})
        page.wait_for_selector(EXACT)
    page.fill("#scale", "4.2")
    page.press("#scale", "Enter")
    page.wait_for_selector("#alert:not([hidden])")
    assert page.inner_text("#alert") == "The connection to the server is lost. Trying again…"
    assert page.get_attribute("#canvas", "data-state") == "coarse"
    with running(create_app(known), port):  # another server, which knows neither the page nor its picture
        page.wait_for_selector("#alert[hidden]", state="attached")
        page.wait_for_selector(EXACT)
        expect_region(page, lmf.load("lm_liif_edsr"), other, 4.2)
        page.goto("about:blank")


def test_closing_the_page_frees_it(visit, known):
    app = create_app(known, settings=Settings(sessions=1))
    with running(app) as port:
        address = f"http://127.0.0.1:{port}/"
        page = visit(address)
        other = visit(address)
        other.wait_for_selector("#alert:not([hidden])")
        assert "1 pages are open, which is the limit" in other.inner_text("#alert")
        page.goto("about:blank")
        deadline = time.time() + 30
        while time.time() < deadline:
            other.goto(address)
            other.wait_for_timeout(300)
            if other.is_hidden("#alert"):
                break
        assert other.is_hidden("#alert")
        other.goto("about:blank")


def test_names_for_screen_readers(visit):
    page = visit()
    page.wait_for_selector(EXACT)
    page.select_option("#compare", "bicubic")
    page.wait_for_selector("#divider:not([hidden])")
    for role, name in (("img", "coffee.png, 144 by 96 pixels"), ("slider", "Comparison"), ("slider", "Budget"),
                       ("combobox", "Model"), ("combobox", "Compare with"), ("spinbutton", "Scale"),
                       ("button", "Zoom in"), ("button", "Zoom out"), ("button", "Fit"), ("checkbox", "Levels"),
                       ("button", "Download…")):  # fmt: skip
        assert page.get_by_role(role, name=name).count() == 1, (role, name)
    assert page.get_by_role("status").first.is_visible()
    assert page.get_by_label("Open…").count() == 1
    page.click("#download")
    assert page.get_by_role("dialog", name="Download").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(visit, scheme):
    page = visit(color_scheme=scheme, viewport={"width": 1024, "height": 640})
    page.wait_for_selector(EXACT)

    def brightness(element, property):
        code = f"(e) => getComputedStyle(e).{property}.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 3"
        return page.locator(element).evaluate(code)

    assert (brightness("header", "backgroundColor") > 128) == (scheme == "light")
    assert (brightness("header", "color") > 128) == (scheme == "dark")
    page.select_option("#compare", "bicubic")
    zoom(page, 6.4)
    if scheme == "dark":
        page.check("#cmsr")
        page.wait_for_selector("#legend:not([hidden])")
    page.wait_for_selector(EXACT)
    screenshot(page, "zoom_levels" if scheme == "dark" else "zoom")
