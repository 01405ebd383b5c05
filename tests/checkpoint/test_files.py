import errno
import json
import pickle
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import lmf
from lmf import checkpoint
from lmf.checkpoint import CheckpointError

TINY = {
    "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 8, "blocks": 1},
    "decoder": {"_target_": "lmf.decoders.LMLIIF", "in_channels": 8, "width": 16, "depth": 2, "hyper": [12]},
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return checkpoint.build(TINY).eval()


def query(model):
    generator = torch.Generator().manual_seed(1)
    lr, coord = torch.rand(1, 3, 6, 7, generator=generator), torch.rand(1, 9, 2, generator=generator) * 2 - 1
    with torch.no_grad():
        return model(lr, coord, torch.tensor([[0.1, 0.1]]))


def test_safetensors_round_trip(model, tmp_path):
    checkpoint.save(model, tmp_path / "model.safetensors", card={"data": "none"})
    again = lmf.load(tmp_path / "model.safetensors")
    assert torch.equal(query(again), query(model))
    assert again.config == model.config
    assert not again.training
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_saved_file_is_as_readable_as_any(model, tmp_path):
    checkpoint.save(model, tmp_path / "model.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_save_leaves_nothing_behind_when_it_fails(model, tmp_path, monkeypatch):
    checkpoint.save(model, tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()

    def full_disk(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(model, tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_equal_models_give_equal_files(model, tmp_path):
    """The file does not depend on the random order in which safetensors writes metadata."""
    card = {"data": "mine", "licence": "CC0"}
    code = f"import sys, lmf; lmf.checkpoint.save(lmf.load(sys.argv[1]), sys.argv[2], {card})"
    checkpoint.save(model, tmp_path / "m.safetensors")
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, tmp_path / "m.safetensors", file], check=True)
    assert len({file.read_bytes() for file in files}) == 1
    assert checkpoint.read_card(files[0]) == card


def test_a_disk_error_while_saving_has_its_number(model, tmp_path):
    """A real disk error: no file of this process may grow beyond a page."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError, match="File too large") as error:
            checkpoint.save(model, tmp_path / "m.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_authors_pth_and_notes(tmp_path, caplog):
    spec = {
        "name": "lmliif",
        "args": {
            "encoder_spec": {"name": "edsr-baseline", "args": {"no_upsampling": True}},
            "imnet_spec": {"name": "lmmlp", "args": {"out_dim": 3, "hidden_dim": 16, "hidden_depth": 2,
                                                     "mod_scale": True, "mod_shift": True}},
            "hypernet_spec": {"name": "mlp", "args": {"out_dim": 80, "hidden_list": [12]}},
            "local_ensemble": True, "feat_unfold": True, "cell_decode": True, "mod_input": True,
        },
    }  # fmt: skip
    ours = checkpoint.build(TINY)
    names = {"head": "head.0", "tail": "body.1", "blocks.0.conv1": "body.0.body.0", "blocks.0.conv2": "body.0.body.2"}
    theirs = {"encoder.sub_mean.bias": torch.ones(3)}
    for key, value in ours.state_dict().items():
        part, _, rest = key.partition(".")
        layer, _, kind = rest.rpartition(".")
        theirs[f"encoder.{names[layer]}.{kind}" if part == "encoder" else rest] = value
    torch.save({"model": {**spec, "sd": theirs}, "epoch": 1}, tmp_path / "epoch-last.pth")
    loaded = lmf.load(tmp_path / "epoch-last.pth")
    assert torch.equal(query(loaded), query(ours))
    assert "mean-shift" in caplog.text
    assert "epoch-last.pth: " in caplog.text


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def write_files(folder):
    (folder / "text.ckpt").write_text("hello")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "text.safetensors").write_text("hello")
    (folder / "model.onnx").write_text("hello")
    torch.save({"state_dict": {}}, folder / "other.ckpt")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"model": {"name": "liif"}}, folder / "partial.pth")
    torch.save({"model": {"name": "esrgan", "args": {}, "sd": {}}}, folder / "unknown.pth")
    torch.save({"model": Evil()}, folder / "evil.pth")
    (folder / "raw_evil.pth").write_bytes(pickle.dumps(Evil()))
    save_file({"a": torch.zeros(1)}, folder / "plain.safetensors")
    header = {"format": 1, "config": {"encoder": {"_target_": "os.system", "command": "true"}, "decoder": {}}}
    save_file({"a": torch.zeros(1)}, folder / "target.safetensors", {"lmf": json.dumps(header)})
    save_file({"a": torch.zeros(1)}, folder / "future.safetensors", {"lmf": json.dumps({"format": 99})})
    (folder / "run").mkdir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.ckpt", "no such checkpoint"),
        ("text.ckpt", "not a checkpoint|safe unpickling"),
        ("empty.pth", "damaged"),
        ("text.safetensors", "damaged"),
        ("model.onnx", "not a checkpoint: a text file"),
        ("other.ckpt", "another project"),
        ("list.pth", "holds a list"),
        ("partial.pth", "not a published checkpoint"),
        ("unknown.pth", "unknown model 'esrgan'"),
        ("evil.pth", "safe unpickling"),
        ("raw_evil.pth", "safe unpickling"),
        ("plain.safetensors", "no model config"),
        ("target.safetensors", r"os\.system is not a class of lmf"),
        ("future.safetensors", "format 99"),
        ("run", "a folder without"),
    ],
)
def test_wrong_files_are_refused_in_one_line(tmp_path, capfd, name, message):
    write_files(tmp_path)
    with pytest.raises(CheckpointError, match=message) as error:
        lmf.load(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)
    assert "executed" not in capfd.readouterr().out


CONFUSED = [3, None, "x", True, [1], [{}], {}, {"a": 1}]


def replaced(tree, path, value):
    """Return a copy of nested dictionaries with ``value`` at ``path``."""
    return {**tree, path[0]: replaced(tree[path[0]], path[1:], value)} if path else value


@pytest.mark.parametrize("value", CONFUSED)
@pytest.mark.parametrize("path", ["lmf", "lmf.format", "lmf.config", "lmf.config.encoder", "lmf.config.decoder",
                                  "lmf.config.encoder._target_", "state_dict", "state_dict.a"])  # fmt: skip
def test_values_of_another_type_are_refused_in_one_line(tmp_path, path, value):
    content = {"lmf": {"format": 1, "config": TINY}, "state_dict": {"a": torch.zeros(1)}}
    torch.save(replaced(content, path.split("."), value), tmp_path / "m.ckpt")
    check_refused(tmp_path / "m.ckpt", lmf.load)
    if path.startswith("lmf"):
        header = json.dumps(replaced(content["lmf"], path.split(".")[1:], value))
        save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"lmf": header, "card": json.dumps([value])})
        check_refused(tmp_path / "m.safetensors", lmf.load)
        check_refused(tmp_path / "m.safetensors", checkpoint.read_card)


@pytest.mark.parametrize("value", CONFUSED)
@pytest.mark.parametrize("path", ["model", "model.name", "model.args", "model.sd", "model.args.encoder_spec",
                                  "model.args.encoder_spec.args", "model.args.imnet_spec", "model.sd.a"])  # fmt: skip
def test_published_values_of_another_type_are_refused_in_one_line(tmp_path, path, value):
    encoder = {"name": "edsr-baseline", "args": {"no_upsampling": True}}
    args = {"encoder_spec": encoder, "imnet_spec": {"name": "mlp", "args": {}}}
    content = {"model": {"name": "liif", "args": args, "sd": {"a": torch.zeros(1)}}}
    torch.save(replaced(content, path.split("."), value), tmp_path / "m.pth")
    check_refused(tmp_path / "m.pth", lmf.load)


def check_refused(path, read):
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit(model, tmp_path):
    state = model.state_dict()
    state["encoder.head.weight"] = torch.zeros(4, 3, 3, 3)
    header = json.dumps({"format": 1, "config": model.config})
    save_file(state, tmp_path / "m.safetensors", {"lmf": header})
    with pytest.raises(CheckpointError, match="size mismatch"):
        lmf.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"_target_": "lmf.decoders.Nothing"}, "there is no"),
        ({"_target_": "lmf.decoders.LMLIIF", "colour": 3}, "unexpected keyword"),
        ({"_target_": "lmf.decoders.LMLIIF", "in_channels": 64}, "expects 64 feature channels"),
        ({"_target_": "lmf.encoders.EDSR"}, "subclass of lmf.decoders.Decoder"),
        ({}, "subclass of lmf.decoders.Decoder"),
    ],
)
def test_build_refuses(decoder, message):
    with pytest.raises(ValueError, match=message):
        checkpoint.build({**TINY, "decoder": decoder})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, value):
    model.decoder.imnet.layers[0].weight.data[0, 0] = value
    checkpoint.save(model, tmp_path / "m.safetensors")
    lightning = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
    torch.save({"lmf": {"format": 1, "config": model.config}, "state_dict": lightning}, tmp_path / "m.ckpt")
    for name in ("m.safetensors", "m.ckpt"):
        with pytest.raises(CheckpointError, match=f"{name}: NaN or infinite weights in 1 of .*imnet") as error:
            lmf.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_published_checkpoint(shared):
    model = lmf.load(shared / "weights" / "edsr-baseline-liif.pth")
    assert sum(p.numel() for p in model.parameters()) == 1_567_323 - 24


def test_half_precision_and_card(model, tmp_path):
    checkpoint.save(model, tmp_path / "m.safetensors", card={"data": "none"}, half=True)
    assert checkpoint.read_card(tmp_path / "m.safetensors") == {"data": "none"}
    torch.testing.assert_close(query(lmf.load(tmp_path / "m.safetensors")), query(model), rtol=0, atol=2e-3)
    (tmp_path / "n.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="damaged or not written"):
        checkpoint.read_card(tmp_path / "n.safetensors")


def test_files_take_precedence_over_names_of_pretrained_models(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.files, "bundled", lambda: {"tiny": tmp_path / "tiny.safetensors"})
    checkpoint.save(model, tmp_path / "tiny.safetensors", card={"data": "none"})
    assert torch.equal(query(lmf.load("tiny")), query(model))
    size = {"bytes": (tmp_path / "tiny.safetensors").stat().st_size}
    size["parameters"] = sum(p.numel() for p in model.parameters())
    assert checkpoint.list_models() == {"tiny": {"data": "none", **size}}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(CheckpointError, match="a folder without"):
        lmf.load("tiny")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("runs/lmf_edsr/2026-11-22_21-54-19/", "2026-11-22_21-54-19"),
        ("weights/edsr-baseline-liif.pth", "edsr-baseline-liif"),
        ("lm_liif_edsr", "lm_liif_edsr"),
        ("runs/depth.4", "depth.4"),
        (".", "."),
    ],
)
def test_short_names(source, name):
    assert checkpoint.short_name(source) == name


def test_initialisation_that_rejects_numbers_ends(tmp_path, monkeypatch):
    """Memory that was never written can hold numbers that `nn.init.trunc_normal_` would reject for ever."""
    encoder = {"_target_": "lmf.encoders.SwinIR", "out_channels": 6, "embed": 6, "depths": [1], "heads": [1]}
    config = {
        "encoder": encoder,
        "decoder": {"_target_": "lmf.decoders.MetaSR", "in_channels": 6},
        "renderer": {"_target_": "lmf.renderers.Dense"},
    }
    model = checkpoint.build(config)
    checkpoint.save(model, tmp_path / "swin.safetensors")
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, original=original, **k: original(*a, **k).fill_(1e9))
    loaded = checkpoint.load(tmp_path / "swin.safetensors")
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key])
