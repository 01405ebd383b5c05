"""Tests of what the identity of a job depends on."""

import os
import shutil

import pytest
import torch

from lmf import checkpoint
from lmf.app import version
from lmf.app.identity import identity, named
from lmf.renderers.cmsr.tables import beside

PARTS = {
    "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 4, "blocks": 1},
    "decoder": {"_target_": "lmf.decoders.LMLIIF", "in_channels": 4, "width": 16, "depth": 1, "hyper": [8]},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a=b, c" / "m.safetensors"
    path.parent.mkdir()
    checkpoint.save(checkpoint.build(PARTS), path)
    return path


def touch(path):
    """Change the time of a file as if it had been written again a second later."""
    now = path.stat().st_mtime + 1
    os.utime(path, (now, now))


@pytest.mark.parametrize("key", ["init_from", "pretrained", "ckpt_path"])
def test_the_file_behind_a_model(compose, file, key):
    overrides = ("task=test" if key != "init_from" else "task=fit", f"{key}='{file}'")
    before = identity(compose(*overrides))
    assert identity(compose(*overrides)) == before
    torch.manual_seed(1)
    checkpoint.save(checkpoint.build(PARTS), file)
    touch(file)
    after = identity(compose(*overrides))
    assert after != before
    beside(file).write_text("tables")
    assert identity(compose(*overrides)) != after


@pytest.mark.parametrize("key", ["init_from", "ckpt_path", "pretrained"])
def test_the_file_behind_a_name(compose, file, key, monkeypatch):
    monkeypatch.setattr(checkpoint.files, "bundled", lambda: {"tiny": file})
    overrides = ("task=test" if key != "init_from" else "task=fit", f"{key}=tiny")
    before = identity(compose(*overrides))
    touch(file)
    assert identity(compose(*overrides)) != before


def test_the_default_model_of_a_task(compose, file, monkeypatch):
    monkeypatch.setattr(checkpoint.files, "bundled", lambda: {"lm_liif_edsr": file})
    overrides = ("task=upscale", "input=photos", "scale=2")
    before = identity(compose(*overrides))
    touch(file)
    assert identity(compose(*overrides)) != before


def test_the_last_run(compose, file, tmp_path):
    for number, name in enumerate("ab"):
        last = tmp_path / "runs" / "x" / name / "checkpoints" / "last.ckpt"
        last.parent.mkdir(parents=True)
        shutil.copy(file, last)
        os.utime(last, (number, number))
    overrides = ("task=test", "name=x", "ckpt_path=last")
    before = identity(compose(*overrides))
    os.utime(last.parents[2] / "a" / "checkpoints" / "last.ckpt", (9, 9))  # the other one is the last now
    assert identity(compose(*overrides)) != before


def test_what_training_goes_on_with_is_its_own(compose, file, tmp_path):
    last = tmp_path / "runs" / "lmf" / "a" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    shutil.copy(file, last)
    before = identity(compose("ckpt_path=last"))
    touch(last)
    assert identity(compose("ckpt_path=last")) == before


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["task=test", "renderer=cmsr", "renderer.tables='PLACE/t.yaml'", "ckpt_path=m"], "t.yaml"),
        (["task=export", "output=o.safetensors", "card='PLACE/card.yaml'", "ckpt_path=m"], "card.yaml"),
        (["task=export", "output=o.safetensors", "results=['PLACE/r.json']", "ckpt_path=m"], "r.json"),
        (["task=calibrate", "input='PLACE/photos'", "ckpt_path=m"], "photos/sub/a.png"),
        (["task=upscale", "input='PLACE/photos/**/*.png'"], "photos/sub/a.png"),
        (["data=folder", "data.root='PLACE/photos'"], "photos/sub/a.png"),
    ],
)
def test_other_files_it_reads(compose, tmp_path, overrides, changed):
    place = tmp_path / "a b=c"
    file = place / changed
    file.parent.mkdir(parents=True)
    file.write_text("1")
    overrides = [o.replace("PLACE", str(place)) for o in overrides]
    before = identity(compose(*overrides))
    assert identity(compose(*overrides)) == before
    file.write_text("22")
    after = identity(compose(*overrides))
    assert after != before
    file.unlink()
    assert identity(compose(*overrides)) not in (before, after)


def test_the_source_of_a_foreign_class(compose, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text("class Decoder: ...")
    monkeypatch.syspath_prepend(tmp_path)
    before = identity(compose("decoder._target_=theirs.Decoder"))
    touch(tmp_path / "theirs.py")
    assert identity(compose("decoder._target_=theirs.Decoder")) != before


def test_the_code_and_the_config(compose, monkeypatch):
    before = identity(compose())
    assert identity(compose("seed=1")) != before
    assert identity(compose(output="elsewhere")) == before
    monkeypatch.setattr(version, "fingerprint", lambda: "another")
    assert identity(compose()) != before


def test_pictures_behind_links(compose, tmp_path):
    """The pictures of a data set are often links to folders, which are followed when they are read."""
    elsewhere, photos = tmp_path / "elsewhere", tmp_path / "photos"
    for folder in (elsewhere / "sub", photos):
        folder.mkdir(parents=True)
    (photos / "link").symlink_to(elsewhere)
    (elsewhere / "sub" / "loop").symlink_to(photos)
    (elsewhere / "sub" / "a.png").write_text("1")
    config = compose("task=upscale", "scale=2", f"input={photos}")
    before = identity(config)
    assert identity(config) == before
    (elsewhere / "sub" / "a.png").write_text("22")
    assert identity(config) != before


def test_an_empty_text_is_not_the_working_folder():
    assert named("") == []


@pytest.mark.parametrize("form", ["[bicubic,'{}']", "[bicubic,{{model:'{}',label:a}}]"])
def test_the_models_of_a_comparison(compose, file, form):
    overrides = ("task=compare", f"task.models={form.format(file)}")
    before = identity(compose(*overrides))
    touch(file)
    assert identity(compose(*overrides)) != before
