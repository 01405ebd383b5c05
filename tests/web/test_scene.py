"""A frame is a part of what `SRModel.upscale` returns, for every kind of picture."""

import gc
import io
import time
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import lmf
from lmf.inference.stores import Cache
from lmf.inference.views import Views
from lmf.io import Metadata
from lmf.io import Picture as Page
from lmf.web.scene import Picture, Scene, displayed
from lmf.web.turns import Turns

from .conftest import photo

VIEW = ((10, 100), (33, 140))


def scene_of(pixels, known, method="lm_liif_edsr"):
    return Scene(Picture("photo", Page(pixels, Metadata()), "me"), known[method], Cache(), Turns())


def ready(scene, size, view=None):
    view = view or ((0, size[0]), (0, size[1]))
    while not scene.wait(size, view, 10, lambda: True):
        pass
    return scene


def pictures():
    rgb, rgba = np.asarray(photo()), np.asarray(photo(mode="RGBA"))
    deep = (rgb.astype(np.uint16) * 257) ^ 3
    opaque = rgba.copy()
    opaque[..., 3] = 200
    return {"rgb": rgb, "grey": rgb[..., 0], "rgba": rgba, "16 bits": deep, "constant alpha": opaque}


@pytest.mark.parametrize("kind", pictures())
@pytest.mark.parametrize("scale", [0.5, 3.7])
def test_a_frame_is_a_part_of_the_whole(kind, scale, known):
    pixels = pictures()[kind]
    whole = lmf.load("lm_liif_edsr").upscale(pixels, scale=scale)
    size = whole.shape[:2]
    view = VIEW if scale > 1 else ((3, 9), (5, 21))
    frame = ready(scene_of(pixels, known), size).frame(scale, view)
    expected = whole[slice(*view[0]), slice(*view[1])].astype(int)
    [(box, made)] = frame.parts
    assert (box, made.dtype) == (view, pixels.dtype)
    limit = 1 if pixels.dtype == np.uint8 else 4  # float32 rounding
    assert np.abs(made.astype(int) - expected).max() <= limit
    assert np.mean(made != expected) < (0.01 if pixels.dtype == np.uint8 else 0.5)


def test_pixels_that_are_known_are_not_rendered_again(known):
    pixels = np.asarray(photo(mode="RGBA"))
    scene = ready(scene_of(pixels, known), (111, 155))
    old, view = ((0, 80), (10, 100)), VIEW
    before, whole = scene.frame(3.7, old), scene.frame(3.7, view)
    frame = scene.frame(3.7, view, held=old)
    assert [box for box, _ in frame.parts] == [((80, 100), (33, 140)), ((10, 80), (100, 140))]
    canvas = np.zeros((111, 155, 4), dtype=np.uint8)
    for (rows, cols), part in (*before.parts, *frame.parts):
        canvas[slice(*rows), slice(*cols)] = part
    made = canvas[10:100, 33:140].astype(int)
    assert np.abs(made - whole.parts[0][1]).max() <= 1
    assert frame.macs["render"] == pytest.approx(whole.macs["render"] * (20 * 107 + 70 * 40) / (90 * 107))
    assert scene.frame(3.7, VIEW, held=((0, 111), (0, 155))).parts == []


def test_bands_are_the_whole(known):
    pixels = np.asarray(photo(mode="RGBA"))
    whole = lmf.load("lm_liif_edsr").upscale(pixels, size=(77, 101)).astype(int)
    made = np.concatenate(list(ready(scene_of(pixels, known), (77, 101)).bands((77, 101))))
    assert np.abs(made - whole).max() <= 1


def test_pixels_on_the_screen():
    deep = np.array([[0, 128, 129, 65535]], dtype=np.uint16)
    assert displayed(deep)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert displayed(deep)[0, :, 3].tolist() == [255] * 4
    both = np.array([[[7, 9]]], dtype=np.uint8)
    assert displayed(both).tolist() == [[[7, 7, 7, 9]]]


def test_the_preview_is_small(known):
    picture = Picture("wide", Page(np.zeros((10, 5000, 3), dtype=np.uint8), Metadata()), "me")
    assert Image.open(io.BytesIO(picture.preview)).size == (2048, 4)


def test_the_view_is_encoded_first(known, monkeypatch):
    done = []
    monkeypatch.setattr("lmf.web.scene.Views", partial(Views, tile=16))
    scene = scene_of(np.asarray(photo(64, 64)), known)
    encode = scene.encode
    monkeypatch.setattr(scene, "encode", lambda tile: [encode(tile), done.append(tile)])
    view = ((250, 256), (250, 256))
    assert scene.wait((256, 256), view, 30, lambda: True)
    assert ((48, 64), (48, 64)) in done
    assert len(done) < 16


def test_a_scene_that_nobody_uses_is_freed(known):
    scene = ready(scene_of(np.asarray(photo()), known), (120, 168))
    scene.frame(4, ((0, 120), (0, 168)))
    cache, features = scene.views[0].cache, weakref.ref(scene.views[0].features)
    assert cache._held
    del scene
    for _ in range(100):
        gc.collect()
        if features() is None:
            break
        time.sleep(0.05)
    assert features() is None
    assert not cache._held


def test_latents_are_computed_in_advance(known):
    scene = scene_of(np.asarray(photo()), known)
    for _ in range(1000):
        if scene.finished:
            break
        time.sleep(0.02)
    assert scene.finished
    before = len(scene.views[0].cache._held)
    scene.frame(8, ((0, 240), (0, 336)))
    assert len(scene.views[0].cache._held) == before > 0


def test_a_broken_encoder_is_reported(known, monkeypatch):
    def broken(self, tile):
        raise RuntimeError("out of order")

    monkeypatch.setattr(Scene, "encode", broken)
    with pytest.raises(lmf.UserError, match="the encoder failed: out of order"):
        scene_of(np.asarray(photo()), known).wait((60, 84), ((0, 60), (0, 84)), 10, lambda: True)


def test_the_budget_of_a_frame(known):
    scene = ready(scene_of(np.asarray(photo(60, 80)), known), (480, 640))
    view = ((0, 400), (100, 640))
    frame = scene.frame(8, view, budget=0.5)
    assert 0 < frame.stats.share <= 0.5
    assert [box for box, _ in scene.frame(8, view, budget=0.5, held=view).parts] == [view]
    dense = scene.frame(8, view)
    assert frame.macs["render"] == pytest.approx(dense.macs["render"] * frame.stats.share)
    error = np.mean((frame.parts[0][1].astype(float) - dense.parts[0][1]) ** 2)
    assert 10 * np.log10(255**2 / error) > 35
    with pytest.raises(lmf.UserError, match="bicubic has no tables"):
        ready(scene_of(np.asarray(photo()), known, "bicubic"), (240, 336)).frame(8, ((0, 9), (0, 9)), budget=0.5)


def test_a_frame_leaves_gradients_on(known):
    assert not torch.is_inference_mode_enabled()
    pixels = ready(scene_of(np.asarray(photo()), known), (60, 84)).frame(2, ((0, 60), (0, 84))).parts[0][1]
    assert pixels.shape == (60, 84, 3)
