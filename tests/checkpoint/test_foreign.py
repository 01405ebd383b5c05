"""Tests of checkpoints from other programs and of files that are no checkpoints."""

import argparse
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import lmf
from lmf import checkpoint
from lmf.checkpoint import CheckpointError, foreign
from tests import golden

MODELS = golden.frozen()
LIIF = MODELS["liif"]


@pytest.fixture(scope="module")
def state():
    return golden.weights(LIIF.keys, LIIF.seed)


@pytest.fixture(scope="module")
def expected(state):
    return checkpoint.from_authors(LIIF.spec, state, verbose=False).state_dict()


def authors(state, **more):
    return {"model": {**LIIF.spec, "sd": state}, **more}


def prefixed(prefix):
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: authors(prefixed("module.")(s)),
        lambda s: authors(prefixed("_orig_mod.")(s)),
        lambda s: authors(prefixed("model.")(s)),
        lambda s: authors(prefixed("module._orig_mod.model.module.")(s)),
        lambda s: authors({k.replace("encoder.", "encoder._orig_mod.module."): v for k, v in s.items()}),
        lambda s: authors(s, best=np.float64(34.5), times=np.arange(3), epoch=np.int64(7)),
        lambda s: authors({k: nn.Parameter(v) for k, v in s.items()}),
        lambda s: authors({k: v.double() for k, v in s.items()}),
        lambda s: s,
        lambda s: {"model": s},
        lambda s: {"params": s},
        lambda s: {"params_ema": s, "params": {k: torch.zeros_like(v) for k, v in s.items()}},
        lambda s: {"state_dict": prefixed("model.")(s), "epoch": 3, "pytorch-lightning_version": "2.0"},
        lambda s: {"state_dict": prefixed("module.generator.")(s) | {"loss.a": torch.ones(1)}, "meta": {"epoch": 1}},
        lambda s: {"state_dict": prefixed("generator.module.")(s)},
    ],
    ids=["module", "orig_mod", "model", "stacked", "inner", "numpy", "parameters", "double", "bare", "model-only",
         "params", "params_ema", "lightning", "mmedit", "mmedit-module"],
)  # fmt: skip
def test_the_same_weights_wherever_they_lie(state, expected, tmp_path, wrap):
    torch.save(wrap(state), tmp_path / "m.pth")
    loaded = lmf.load(tmp_path / "m.pth").state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["m.PTH", "m.pth.tar", "m.pt", "m.bin", "m"])
@pytest.mark.parametrize("zipped", [True, False])
def test_the_suffix_does_not_matter(state, expected, tmp_path, name, zipped):
    torch.save(authors(state), tmp_path / name, _use_new_zipfile_serialization=zipped)
    loaded = lmf.load(tmp_path / name).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(state, tmp_path, dtype):
    torch.save(authors({k: v.to(dtype) for k, v in state.items()}), tmp_path / "m.pth")
    loaded = lmf.load(tmp_path / "m.pth").state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert torch.equal(loaded["encoder.head.weight"], state["encoder.head.0.weight"].to(dtype).float())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_state_dict_alone_shows_which_model_it_is(name):
    g = MODELS[name]
    spec = foreign.describe({key: torch.zeros(shape) for key, shape in g.keys})
    assert spec["name"] == g.spec["name"]
    part = "encoder" if "encoder" in g.spec["args"] else "encoder_spec"
    assert spec["args"][part]["name"] == g.spec["args"][part]["name"]
    weights = golden.weights(g.keys, g.seed)
    model, same = (checkpoint.from_authors(s, weights, verbose=False) for s in (spec, g.spec))
    assert model.config == same.config


def torchscript(path):
    torch.jit.script(nn.Linear(1, 1)).save(path)


def tar(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())


def npz(path):
    np.savez(path.open("wb"), a=np.zeros(3))


def other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")


EDSR = {"encoder.head.0.weight": torch.zeros(8, 3, 3, 3), "encoder.body.0.body.0.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.write_text("<!DOCTYPE html><html>Virus scan warning</html>"), "a web page"),
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "Git LFS pointer"),
        (lambda p: p.write_text("weights, I promise"), "a text file"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "HDF5"),
        (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "gzip"),
        (torchscript, "TorchScript"),
        (tar, "tar archive"),
        (npz, "a zip archive"),
        (other_zip, "a zip archive"),
        (lambda p: torch.save({"model": {}, "args": argparse.Namespace(gpu=0)}, p), "argparse.Namespace"),
        (lambda p: torch.save(nn.Linear(1, 1), p), "torch.nn.modules.linear.Linear"),
        (lambda p: torch.save({"pytorch-lightning_version": "2", "epoch": 1}, p), "Lightning checkpoint of another"),
        (lambda p: torch.save({"optimizer": {}, "step": 1}, p), "training state of another project"),
        (lambda p: torch.save({}, p), "has keys none"),
        (lambda p: torch.save({"conv_first.weight": torch.zeros(1)}, p), "weights of an unknown model .*conv_first"),
        (lambda p: torch.save({"encoder.a.weight": torch.zeros(1)}, p), "unknown decoder"),
        (lambda p: torch.save({"state_dict": EDSR | {"imnet.layers.0.bias": torch.zeros(3)}}, p),
         "EDSR of 1 blocks of width 8 .* res_scale"),
        (lambda p: torch.save({"params": {"encoder.a.b": torch.zeros(1), "imnet.layers.0.bias": torch.zeros(3)}}, p),
         "unknown encoder .*encoder.a.b"),
        (lambda p: torch.save({"model.module.a": torch.zeros(1), "a": torch.zeros(1)}, p), "two weights are called a"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_it_seems_to_be(tmp_path, write, message):
    path = tmp_path / "m.pth"
    write(path)
    with pytest.raises(CheckpointError, match=message) as error:
        lmf.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_damaged(state, tmp_path):
    torch.save(authors(state), tmp_path / "m.pth")
    content = (tmp_path / "m.pth").read_bytes()
    for size in (100, len(content) // 2, len(content) - 1):
        (tmp_path / "m.pth").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"m\.pth: (damaged|not a checkpoint)"):
            lmf.load(tmp_path / "m.pth")


def test_weights_that_are_not_finite(state, tmp_path):
    torch.save(authors({k: v * torch.nan for k, v in state.items()}), tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"m\.pth: NaN or infinite weights"):
        lmf.load(tmp_path / "m.pth")
