"""Tests of exported models with their cards, and of the pretrained models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from skimage import data

import lmf
from lmf import checkpoint
from lmf.app import pipeline
from lmf.benchmark.cost import count
from lmf.data.degradations import resize_pil
from lmf.renderers.cmsr.tables import Tables, beside

from ..conftest import TINY


@pytest.fixture
def trained(compose, tmp_path):
    pipeline.run(compose(*TINY, "schedule.epochs=1"))
    return tmp_path / "run"


def test_a_run_becomes_a_file_with_a_card(compose, trained, tmp_path):
    file = tmp_path / "shared" / "tiny.safetensors"
    (tmp_path / "card.yaml").write_text("data: scikit-image\nlicence: MIT\n")
    export = ("task=export", f"output={file}")
    pipeline.run(compose(*TINY, *export, f"ckpt_path={trained}", f"card={tmp_path / 'card.yaml'}"))
    with safe_open(file, "pt") as content:
        assert {content.get_tensor(key).dtype for key in content.keys()} == {torch.float16}  # noqa: SIM118
    model, exact = lmf.load(file), lmf.load(trained)
    for key, value in exact.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-3, atol=1e-6)

    # results are added to the card, which keeps its facts
    results = tmp_path / "results.json"
    row = {"set": "set5", "scale": 3.7, "images": 5, "psnr": 31.23456, "bicubic_psnr": 28.0}
    faults = {"set": "graphics", "scale": 4, "images": 24, "psnr": 30.0, "colour_share": 0.0000123, "raw_max": 1.54321}
    results.write_text(json.dumps([row, faults, {**row, "psnr": 31.5, "self_ensemble": True}]))
    pipeline.run(compose(*TINY, *export, f"ckpt_path={file}", f"results=[{results}]"))
    card = checkpoint.read_card(file)
    assert (card["data"], card["licence"]) == ("scikit-image", "MIT")
    assert [step["schedule"]["name"] for step in card["recipe"]] == ["quick"]
    assert card["version"] == lmf.__version__
    assert card["results"] == {
        "set5_x3.7": {"psnr": 31.2346, "bicubic_psnr": 28.0, "self_ensemble_psnr": 31.5},
        "graphics_x4": {"psnr": 30.0, "colour_share": 0.000012, "raw_max": 1.5432},
    }
    gmacs = {
        f"x{scale}": round(count(exact, (90, 160), scale=scale).total_macs / 1e9, 1) for scale in (2, 3, 4, 6, 8, 12)
    }
    assert card["costs"] == {"lr_size": [90, 160], "gmacs": gmacs, "self_ensemble": 8}
    again = lmf.load(file).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_card_lists_every_training(compose, trained, tmp_path):
    again = ("schedule=finetune", "schedule.epochs=1", "schedule.patch=12", "schedule.ema=null", f"init_from={trained}")
    pipeline.run(compose(*TINY, *again, output=tmp_path / "again"))
    file = tmp_path / "tiny.safetensors"
    pipeline.run(compose(*TINY, "task=export", f"ckpt_path={tmp_path / 'again'}", f"output={file}"))
    steps = checkpoint.read_card(file)["recipe"]
    assert [(step["schedule"]["name"], step["init_from"]) for step in steps] == [("quick", None), ("finetune", "run")]


def test_a_resumed_run_counts_with_its_last_options(compose, trained, tmp_path):
    pipeline.run(compose(*TINY, "schedule.epochs=2", "ckpt_path=last", output=trained))
    (trained / "config-old.yaml").write_text("copied by the user")
    file = tmp_path / "tiny.safetensors"
    pipeline.run(compose(*TINY, "task=export", f"ckpt_path={trained}", f"output={file}"))
    assert [step["schedule"]["epochs"] for step in checkpoint.read_card(file)["recipe"]] == [2]


@pytest.mark.parametrize("folder", ["models", "checkpoints"])
@pytest.mark.parametrize("content", ["[1, 2]", "schedule_of_theirs: 3", "text"])
def test_configs_of_other_programs_are_no_recipe(compose, trained, tmp_path, folder, content):
    copy = tmp_path / "theirs" / folder / "model.ckpt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes((trained / "checkpoints" / "last.ckpt").read_bytes())
    (tmp_path / "theirs" / "config.yaml").write_text(content)
    file = tmp_path / "tiny.safetensors"
    pipeline.run(compose(*TINY, "task=export", f"ckpt_path={copy}", f"output={file}"))
    assert "recipe" not in checkpoint.read_card(file)


def test_a_card_is_found_by_content_not_by_suffix(compose, trained, tmp_path):
    file, again = tmp_path / "tiny.safetensors", tmp_path / "again.safetensors"
    (tmp_path / "card.yaml").write_text("data: scikit-image\n")
    facts = f"card={tmp_path / 'card.yaml'}"
    pipeline.run(compose(*TINY, "task=export", f"ckpt_path={trained}", f"output={file}", facts))
    file.rename(tmp_path / "tiny.bin")
    pipeline.run(compose(*TINY, "task=export", f"ckpt_path={tmp_path / 'tiny.bin'}", f"output={again}"))
    assert checkpoint.read_card(again)["data"] == "scikit-image"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "which model"),
        (("ckpt_path=RUN", "output=model.pth"), "must end in .safetensors"),
        (("ckpt_path=RUN", "results=[RUN/config.yaml]"), "not a results.json"),
    ],
)
def test_what_cannot_be_exported_is_said(compose, trained, tmp_path, caplog, overrides, message):
    output = tmp_path / "model.safetensors"
    given = [o.replace("RUN", str(trained)) for o in (f"output={output}", *overrides)]
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "task=export", *given))
    assert message in caplog.text
    assert not output.exists()


def test_pretrained_models_have_cards_and_fit_their_tables():
    models = lmf.list_models()
    assert "lm_liif_edsr" in models
    for name, card in models.items():
        assert {"data", "licence", "recipe", "commit", "results"} <= card.keys(), name
        path = checkpoint.find(name)
        assert card["bytes"] == path.stat().st_size < 4 * 2**20
        assert card["parameters"] == sum(p.numel() for p in lmf.load(name).parameters())
        Tables.of(beside(path)).check(lmf.load(name))


def test_a_pretrained_model_beats_bicubic_on_a_photograph():
    hr = data.astronaut()[60:316, 120:376]
    lr = resize_pil(np.ascontiguousarray(hr), (64, 64))

    def psnr(sr):
        return 10 * np.log10(255**2 / np.mean((sr[8:-8, 8:-8].astype(float) - hr[8:-8, 8:-8]) ** 2))

    bicubic = psnr(resize_pil(lr, (256, 256)))
    for name in lmf.list_models():
        assert psnr(lmf.load(name).upscale(lr, scale=4)) > bicubic + 1.5, name


def test_photographs_bound_the_features(compose, trained, tmp_path, caplog):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name in ("astronaut", "coffee"):
        lmf.io.write(photographs / f"{name}.png", getattr(data, name)()[:200, :240])
    file = tmp_path / "bounded.safetensors"
    options = (*TINY, "task=export", f"ckpt_path={trained}", f"output={file}", f"bounds={photographs}", "half=false")
    pipeline.run(compose(*options))
    model, plain = lmf.load(file), lmf.load(trained)
    assert model.config["decoder"]["bounded"]
    seen = []
    for path in sorted(photographs.iterdir()):
        picture = lmf.io.read(path)
        for scale in (1, 2, 4):
            size = [round(n / scale) for n in picture.shape[:2]]
            crop = np.ascontiguousarray(picture[: size[0] * scale, : size[1] * scale])
            lr = torch.from_numpy(resize_pil(crop, (size[0], size[1])).copy()).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                seen.append(plain.encoder(lr)[0].flatten(1))
    values = torch.cat(seen, dim=1)
    torch.testing.assert_close(model.decoder.feat_low, values.amin(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(model.decoder.feat_high, values.amax(1), rtol=0, atol=1e-5)
    assert "photographs" in checkpoint.read_card(file)["bounds"]


def test_only_lmf_decoders_are_bounded(compose, tmp_path, caplog):
    run = [*(option for option in TINY if not option.startswith("decoder.")), "decoder=liif", "decoder.hidden=[8]"]
    pipeline.run(compose(*run, "schedule.epochs=1", output=tmp_path / "liif"))
    export = (
        "task=export",
        f"ckpt_path={tmp_path / 'liif'}",
        f"bounds={tmp_path}",
        f"output={tmp_path / 'a.safetensors'}",
    )
    config = compose(*run, *export)
    with pytest.raises(SystemExit):
        pipeline.run(config)
    assert "bounded" in caplog.text
    assert not (tmp_path / "a.safetensors").exists()


def test_the_mean_of_several_models(compose, trained, tmp_path):
    (first, other), file = trained_and_changed(trained, tmp_path), tmp_path / "mean.safetensors"
    options = ("task=export", f"ckpt_path={first}", f"output={file}", "half=false")
    pipeline.run(compose(*TINY, *options, f"average=[{other},{other}]"))
    mean, states = lmf.load(file).state_dict(), [lmf.load(path).state_dict() for path in (first, other, other)]
    for key, value in mean.items():
        expected = np.mean([state[key].numpy() for state in states], axis=0, dtype=np.float64)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert checkpoint.read_card(file)["average"] == "mean of the weights of 3 models"


def test_models_of_different_configs_have_no_mean(compose, trained, tmp_path, caplog):
    file = tmp_path / "mean.safetensors"
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "task=export", f"ckpt_path={trained}", f"output={file}", "average=[lm_liif_edsr]"))
    assert "can be averaged: model 2 has" in caplog.text
    assert not file.exists()


def trained_and_changed(run, folder):
    """A run folder, and a file that holds its model with other weights, and options as before `bounded` existed."""
    model, changed = lmf.load(run), folder / "changed.safetensors"
    for parameter in model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    del model.config["decoder"]["bounded"]
    checkpoint.save(model, changed)
    return run, changed
