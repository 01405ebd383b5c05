import csv
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import lmf
from lmf import checkpoint
from lmf.app import pipeline
from lmf.benchmark.cost import count
from lmf.renderers.cmsr.tables import Table, Tables, fingerprint

from ..conftest import TINY

TEST_DATA = ("data.limit=1", "data.crop=48", "data.scales=[2,3.5]")


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def metrics(folder):
    return [row for path in sorted(folder.glob("metrics/*/metrics.csv")) for row in csv.DictReader(path.open())]


@pytest.fixture
def trained(compose, tmp_path):
    pipeline.run(compose(*TINY))
    return tmp_path / "run"


def test_fit_leaves_a_model_a_config_and_metrics(trained):
    model = lmf.load(trained)
    assert model.config["encoder"]["out_channels"] == 8
    assert (trained / "checkpoints" / "last.ckpt").is_file()
    assert "schedule:" in (trained / "config.yaml").read_text()
    assert "${" not in (trained / "config.yaml").read_text()
    psnr = [float(row["val/bundled_x4/psnr"]) for row in metrics(trained) if row.get("val/bundled_x4/psnr")]
    assert len(psnr) == 2
    assert all(10 < value < 50 for value in psnr)


def test_the_checkpoint_is_loaded_by_safe_unpickling(trained):
    assert checkpoint.unpickle(trained / "checkpoints" / "last.ckpt")["lmf"]["format"] == checkpoint.FORMAT


@pytest.mark.parametrize("ema", ["null", "0.9"])
def test_resume_is_as_if_never_stopped(compose, tmp_path, ema):
    options = (*TINY, f"schedule.ema={ema}", "schedule.iterations=5", "schedule.save_every=3")
    pipeline.run(compose(*options, output=tmp_path / "whole"))
    # Stopped in the middle of the second epoch; the last checkpoint is two steps older than what was reached.
    part = tmp_path / "part"
    pipeline.run(compose(*options, "+trainer.max_steps=8", "callbacks.last=null", output=part))
    assert torch.load(part / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    pipeline.run(compose(*options, "ckpt_path=last", output=part))
    whole, resumed = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "part"))
    assert whole.keys() == resumed.keys()
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key
    assert (part / "config-1.yaml").is_file()


def test_resume_refuses_another_model(compose, trained, capsys, caplog):
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "encoder.blocks=2", f"ckpt_path={trained}", output=trained))
    assert "its encoder is" in caplog.text


def test_a_run_is_not_written_over(compose, trained, caplog):
    before = (trained / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(SystemExit):
        pipeline.run(compose(*TINY, "seed=1", output=trained))
    assert "holds a run already" in caplog.text
    assert (trained / "checkpoints" / "last.ckpt").read_bytes() == before


def test_test_writes_what_it_shows(compose, trained, tmp_path, capsys):
    out = tmp_path / "test"
    pipeline.run(compose(*TINY, "task=test", f"ckpt_path={trained}", *TEST_DATA, output=out))
    rows = json.loads((out / "results.json").read_text())
    assert [(r["set"], r["scale"], r["images"]) for r in rows] == [("bundled", 2, 1), ("bundled", 3.5, 1)]
    assert all(math.isfinite(r["psnr"]) and 0 < r["ssim"] < 1 and r["bicubic_psnr"] > 20 for r in rows)
    with (out / "results.csv").open() as file:
        assert [float(row["psnr"]) for row in csv.DictReader(file)] == [r["psnr"] for r in rows]
    assert f"{rows[0]['psnr']:.2f}" in capsys.readouterr().out


def test_fit_can_measure_what_it_trained(compose, tmp_path):
    cost = ("callbacks=default", "callbacks.cost.lr_size=[4,6]", "callbacks.cost.scales=[2]",
            "callbacks.cost.every=test", "callbacks.cost.results=true")  # fmt: skip
    options = [o for o in TINY if o != "callbacks.cost=null"]
    pipeline.run(compose(*options, *cost, *TEST_DATA, "task.test=true"))
    fitted = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["scale"] for row in fitted] == [2, 3.5]
    assert fitted[0]["decoder_gmacs"] == pytest.approx(
        count(lmf.load(tmp_path / "run"), (4, 6), scale=2).decoder_macs / 1e9
    )
    assert "decoder_gmacs" not in fitted[1]
    pipeline.run(compose(*TINY, "task=test", f"ckpt_path={tmp_path / 'run'}", *TEST_DATA, output=tmp_path / "test"))
    for row, same in zip(fitted, json.loads((tmp_path / "test" / "results.json").read_text()), strict=True):
        assert row["psnr"] == pytest.approx(same["psnr"], abs=1e-4)


def test_bicubic_needs_no_checkpoint(compose, tmp_path):
    out = tmp_path / "bicubic"
    options = [o for o in TINY if not o.startswith(("encoder.", "decoder."))]
    pipeline.run(compose(*options, "encoder=identity", "decoder=bicubic", "task=test", *TEST_DATA, output=out))
    for row in json.loads((out / "results.json").read_text()):
        assert row["psnr"] == row["bicubic_psnr"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=test"], "which model"),
        (["task=test", "ckpt_path=nowhere.pth"], "nowhere.pth: no such checkpoint"),
        (["task=test", "ckpt_path=lm_liif_edrs"], "did you mean lm_liif_edsr?"),
        (["ckpt_path=last"], "no run to resume"),
        (["ckpt_path=nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        (["data=folder", "data.root=nowhere"], "nowhere"),
        (["schedule.patch=200"], "smaller|small|at least"),
        (["schedule.batch_size=0"], "batch_size"),
        (["schedule.skip=trilinear"], "trilinear"),
        (["decoder.in_channels=9"], "9 feature channels"),
        (["logger.wandb.mode=sometimes"], "sometimes"),
        (["task=upscale", "input=nowhere.png", "scale=2"], "nowhere.png"),
    ],
)
def test_mistakes_are_one_line_and_status_1(compose, caplog, overrides, message):
    with pytest.raises(SystemExit) as status:
        pipeline.run(compose(*TINY, *overrides))
    assert status.value.code == 1
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1
    assert "\n" not in errors[0]
    assert any(word in errors[0] for word in message.split("|"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scale=0"], "positive"),
        (["scale=-2"], "positive"),
        (["scale=nan"], "positive"),
        ([], "either"),
        (["scale=2", "size=[4,4]"], "either"),
        (["size=[4]"], "height,width"),
        (["scale=2", "format=gif"], "format"),
        (["scale=2", "quality=0"], "quality"),
    ],
)
def test_upscale_refuses_nonsense_before_it_starts(compose, trained, tmp_path, caplog, overrides, message):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    common = ("task=upscale", f"ckpt_path={trained}", f"input={tmp_path}/a.png", f"output={tmp_path}/out")
    with pytest.raises(SystemExit) as status:
        pipeline.run(compose(*common, *overrides))
    assert status.value.code == 1
    assert message in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tile=0", "tile must be"),
        ("quality=abc", "quality must be"),
        ("quality=null", "quality must be"),
        ("precision=8", "precision must be"),
        ("scale=true", "scale must be"),
        ("input=''", "the input is an empty name"),
    ],
)
def test_upscale_checks_its_options_before_it_loads_the_model(compose, tmp_path, caplog, override, message):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit):
        pipeline.run(compose("task=upscale", "ckpt_path=nowhere", f"input={tmp_path}/a.png", "scale=2", override))
    assert message in caplog.text


def test_upscale_a_folder(compose, trained, tmp_path, caplog):
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(noise[..., :3]).save(pictures / "a.png")
    Image.fromarray(noise).save(pictures / "sub" / "b.png")
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    out = tmp_path / "out"
    common = ("task=upscale", f"ckpt_path={trained}", f"input={pictures}", f"output={out}", "scale=2.5")
    with pytest.raises(SystemExit) as status:
        pipeline.run(compose(*common))
    assert status.value.code == 1
    assert "1 of 3 pictures failed" in caplog.text
    assert "broken.png" in caplog.text
    assert Image.open(out / "a_x2.5.png").size == (18, 22)
    assert Image.open(out / "sub" / "b_x2.5.png").mode == "RGBA"
    assert len([p for p in out.rglob("*") if p.is_file()]) == 2

    before = (out / "a_x2.5.png").stat().st_mtime_ns
    (pictures / "broken.png").unlink()
    pipeline.run(compose(*common))
    assert (out / "a_x2.5.png").stat().st_mtime_ns == before
    pipeline.run(compose(*common, "overwrite=true"))
    assert (out / "a_x2.5.png").stat().st_mtime_ns > before


def test_upscale_to_a_size_and_format(compose, trained, tmp_path):
    Image.new("L", (8, 6), 90).save(tmp_path / "a.png")
    options = ("size=[11,13]", "format=jpg", f"input={tmp_path}/*.png", f"output={tmp_path}/out")
    pipeline.run(compose("task=upscale", f"ckpt_path={trained}", *options))
    picture = Image.open(tmp_path / "out" / "a_13x11.jpg")
    assert (picture.size, picture.mode) == ((13, 11), "L")


def test_misspelt_keys_fail(compose):
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match="lerning_rate"):
        compose("schedule.lerning_rate=1")


def test_a_misspelt_choice_is_answered_with_a_similar_one(compose):
    from hydra.errors import MissingConfigException

    with pytest.raises(MissingConfigException) as error:
        compose("task=tset")
    known = "benchmark, calibrate, compare, dashboard, export, fit, test, upscale, zoom"
    assert pipeline.explain(error.value) == f"task=tset: no such choice; there are {known}; did you mean test?"


def test_a_job_leaves_no_wandb_run_to_the_next(compose, monkeypatch):
    finished = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(finish=lambda exit_code: finished.append(exit_code)))
    pipeline.run(compose("task.run=builtins.id"))
    with pytest.raises(SystemExit):
        pipeline.run(compose("task=upscale", "input=nowhere.png", "scale=2"))
    assert finished == [0, 1]


def test_an_experiment_means_its_pretrained_model(compose, tmp_path, caplog):
    caplog.set_level("INFO")
    options = ("experiment=lmf_edsr", "task=test", "scale=2", "data.limit=1", "data.crop=32", "callbacks.cost=null")
    pipeline.run(compose(*options, "logger.wandb.mode=disabled", output=tmp_path))
    assert "no ckpt_path given, model: " in caplog.text
    assert "lm_liif_edsr.safetensors (EDSR + LMLIIF)" in caplog.text
    assert f"results: {tmp_path}" in caplog.text
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert row["psnr"] > row["bicubic_psnr"] + 0.5


def test_only_the_pictures_of_the_task_are_downloaded(compose, tmp_path, monkeypatch, caplog):
    fetched = []
    monkeypatch.setattr("lmf.data.sources.fetch_archive", lambda url, *_: fetched.append(url.rpartition("/")[2]))
    options = [o for o in TINY if not o.startswith(("encoder.", "decoder."))]
    bicubic = ("task=test", "encoder=identity", "decoder=bicubic", "data=div2k", f"paths.data={tmp_path}/data")
    with pytest.raises(SystemExit):
        pipeline.run(compose(*options, *bicubic))
    assert "DIV2K_valid_HR" in caplog.text
    assert fetched == ["DIV2K_valid_HR.zip"]


def test_the_last_run_of_any_name(compose, tmp_path, caplog):
    caplog.set_level("INFO")
    last = tmp_path / "runs" / "lmf" / "now"
    pipeline.run(compose(*TINY, "schedule.epochs=1", output=last))
    for options, found in (([], True), (["name=other"], False)):
        caplog.clear()
        run = compose(*TINY, "task=test", "ckpt_path=last", *TEST_DATA, *options, output=tmp_path / f"test{found}")
        if found:
            pipeline.run(run)
            assert f"model: {last}/checkpoints/best.ckpt" in caplog.text
        else:
            with pytest.raises(SystemExit):
                pipeline.run(run)
            assert "ckpt_path=last: no run in" in caplog.text


def test_the_saved_config_names_the_tables(compose, trained, tmp_path):
    model = lmf.load(trained)
    file = checkpoint.find(trained).with_suffix(".cmsr.yaml")
    file.write_text(Tables({6: [Table({1: 0.3}, 1e-4)]}, model=fingerprint(model)).dump())
    out = tmp_path / "test"
    options = ("task=test", "renderer=cmsr", f"ckpt_path={trained}", "data.limit=1", "data.crop=48", "data.scales=[6]")
    pipeline.run(compose(*TINY, *options, output=out))
    assert yaml.safe_load((out / "config.yaml").read_text())["renderer"]["tables"] == str(file)


def test_calibration_refuses_other_precisions(compose, trained, caplog):
    for option in ("precision=bf16-mixed", "trainer.precision=bf16-mixed"):
        caplog.clear()
        with pytest.raises(SystemExit):
            pipeline.run(compose(*TINY, "task=calibrate", f"ckpt_path={trained}", option))
        assert "precision=bf16-mixed: task=calibrate measures in 32-true only" in caplog.text
    assert not list((trained / "checkpoints").glob("*cmsr*"))


def test_pretrained_tables_are_not_replaced(compose, tmp_path, caplog):
    before = {path: path.read_bytes() for path in Path(lmf.weights.__file__).parent.glob("*.yaml")}
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit):
        pipeline.run(compose("task=calibrate", "ckpt_path=lm_liif_edsr", f"input={tmp_path}", "scales=[6]"))
    assert "give output=FILE.cmsr.yaml" in caplog.text
    assert before == {path: path.read_bytes() for path in before}
