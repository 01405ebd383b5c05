"""Tests of every experiment and every file in conf."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image

import lmf
from lmf.app import pipeline
from lmf.app.tasks.common import build

from ..conftest import ROOT

CONF = ROOT / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
CHOICES = {
    group.name: sorted(path.stem for path in group.glob("*.yaml") if not path.stem.startswith("_"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name not in ("experiment", "hydra")  # Hydra's own groups are chosen by ours
}
ALONE = {"estimator": "task=calibrate estimator={}", "sweep": "sweep={}"}  # groups that combine with few others

# Published: epochs, iterations, batch size, patch, queries, learning rate, milestones.
LIIF = (1000, 1000, 16, 48, 2304, 1e-4, [200, 400, 600, 800])
LMF = (1200, 1000, 16, 48, 2304, 1e-4, [200, 400, 600, 800, 1000])
LM_CIAOSR = (1200, 1000, 16, 64, 4096, 1e-4, [200, 400, 600, 800, 1000])
SWINIR = (1000, 500, 32, 48, 2304, 2e-4, [500, 800, 900, 950])
SRNO = (1050, 250, 64, 128, 128**2, 4e-4, None)
ENCODERS = {"edsr": 1_220_416, "rdn": 21_973_952, "swinir": 11_603_044}  # parameters
DECODERS = {
    "liif": 346_883,
    "lte": 493_827,
    "lte_plus": 493_827,
    "ciaosr": 1_428_614,
    "metasr": 445_120,
    "diif": 347_395,  # LIIF's with two more coordinates into the first layer; no published number
    "lm_liif": 165_651,
    "lm_liif swinir": 179_571,
    "lm_lte": 270_467,
    "lm_ciaosr": 734_998,
    "srno": 794_883,
    # Lifting, two attention layers of 4 D² + 4 D plus 4 D of layer norms, hypernetwork, renderer; no published number.
    "lm_srno": 579 * 256 + 2 * (5 * 257 * 256 + 4 * 256) + 257 * 208 + (21 + 5 * 17) * 16 + 17 * 3,
}
OURS = {"lm_liif_edsr_plus", "lm_liif_light", "lm_lte_heat_edsr", "thera_air_swinir"}  # of no paper
THERA = {"thera_air_edsr", "thera_plus_edsr", "thera_pro_edsr", "thera_air_rdn"}  # see test_thera.py
TINY = {
    "edsr": ["encoder.blocks=1"],
    "rdn": ["encoder.blocks=1", "encoder.layers=1", "encoder.growth=8"],
    "swinir": ["encoder.embed=8", "encoder.depths=[2]", "encoder.heads=[2]"],
}


def parts(experiment: str) -> tuple[str, str]:
    """Return decoder and encoder from the name of an experiment."""
    decoder, _, encoder = ("lm_liif_edsr" if experiment == "lmf_edsr" else experiment).rpartition("_")
    return decoder, encoder


def published(decoder: str, encoder: str) -> tuple:
    if encoder == "swinir":
        return SWINIR
    if decoder == "lm_ciaosr":
        return LM_CIAOSR
    if decoder == "srno":
        return SRNO
    return LMF if decoder.startswith("lm_") and encoder == "edsr" else LIIF


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_every_published_combination_is_there():
    all_encoders = {
        f"{kind}{d}_{e}" for kind in ("lm_", "") for d in ("liif", "lte", "ciaosr", "srno") for e in ENCODERS
    }
    assert (
        set(EXPERIMENTS)
        == all_encoders | {"lmf_edsr", "metasr_edsr", "lte_plus_edsr", "diif_edsr", "bicubic"} | OURS | THERA
    )


@pytest.mark.parametrize("experiment", sorted({*EXPERIMENTS} - OURS - THERA - {"bicubic"}))
def test_is_the_published_model_and_recipe(compose, experiment):
    decoder, encoder = parts(experiment)
    config = compose(f"experiment={experiment}", "data=div2k", "schedule=paper")
    assert config.name == experiment
    s = config.schedule
    milestones = s.scheduler.get("milestones")
    recipe = (s.epochs, s.iterations, s.batch_size, s.patch, s.queries, s.optimizer.lr, milestones)
    assert recipe == published(decoder, encoder)
    assert (s.min_scale, s.max_scale, s.optimizer._target_, s.interval) == (1, 4, "torch.optim.Adam", "epoch")
    if milestones is None:
        assert (s.scheduler.warmup, s.scheduler.total, s.scheduler.start) == (50, 1050, 0.1)
    else:
        assert s.scheduler.gamma == 0.5
    data = config.data.module
    assert (data.batch_size, data.sampling.patch, data.sampling.queries) == recipe[2:5]
    with torch.device("meta"):
        model = build(config)
    assert parameters(model.encoder) == ENCODERS[encoder]
    assert parameters(model.decoder) == DECODERS.get(f"{decoder} {encoder}", DECODERS[decoder])
    assert model.decoder.skip == ("none" if decoder in ("liif", "lm_liif", "metasr", "diif") else "bilinear")
    clipped = decoder.startswith(("lte", "lm_", "srno"))
    assert model.decoder.clip_scale == (4 if clipped else None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def step(compose, photos):
    """Return ``step(*overrides)``, which composes a config of one training and one validation step on tiny data."""
    return lambda *overrides: compose(
        "schedule=quick",
        "schedule.epochs=1",
        "schedule.iterations=1",
        "schedule.batch_size=2",
        "schedule.patch=8",
        "schedule.queries=16",
        "schedule.val_every=1",
        "data=folder",
        f"data.root={photos}",
        "data.val_crop=20",
        "data.scales=[2.5]",
        "data.workers=0",
        "data.cache=null",
        "trainer=cpu",
        "+trainer.enable_progress_bar=false",
        "callbacks.cost=null",
        "callbacks.pictures=null",
        "callbacks.progress=null",
        "logger.wandb.mode=disabled",
        *overrides,
    )


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(e, marks=pytest.mark.slow if e.endswith(("_rdn", "_swinir")) else ()) for e in EXPERIMENTS],
)
def test_one_step(step, tmp_path, experiment):
    config = step(f"experiment={experiment}", *TINY.get(experiment.rpartition("_")[2], []))
    pipeline.run(config)
    if experiment == "bicubic":
        assert (tmp_path / "run" / "results.json").is_file()
        return
    with next(tmp_path.glob("run/metrics/*/metrics.csv")).open() as file:
        psnr = [float(row["val/psnr"]) for row in csv.DictReader(file) if row.get("val/psnr")]
    assert len(psnr) == 1
    assert 0 < psnr[0] < 60
    model = lmf.load(tmp_path / "run")
    assert model.config["decoder"]["_target_"] == config.decoder._target_
    assert model.upscale(torch.rand(3, 5, 7), scale=1.7).shape == (3, 8, 12)


@pytest.mark.parametrize(
    "overrides",
    [["decoder=liif", "decoder._target_=my_decoder.BumpDecoder"],
     ["decoder._target_=my_decoder.LMBumpDecoder", "+decoder.side=3"]],
    ids=["plain", "lmf"],
)  # fmt: skip
def test_a_decoder_from_outside(step, compose, tmp_path, monkeypatch, overrides):
    monkeypatch.syspath_prepend(ROOT / "notebooks")
    pipeline.run(step(*overrides, *TINY["edsr"]))
    with pytest.raises(ValueError, match="if you trust my_decoder"):
        lmf.load(tmp_path / "run")
    model = lmf.load(tmp_path / "run", trust=["my_decoder"])
    assert model.upscale(torch.rand(1, 3, 5, 7), scale=2.3).shape == (1, 3, 12, 16)
    Image.new("RGB", (6, 5)).save(tmp_path / "small.png")
    where = [f"ckpt_path={tmp_path / 'run'}", f"input={tmp_path / 'small.png'}", f"output={tmp_path / 'large.png'}"]
    pipeline.run(compose("task=upscale", *where, "scale=2", "trust=[my_decoder]"))
    assert Image.open(tmp_path / "large.png").size == (12, 10)


def rows() -> list[list[str]]:
    """Return lists of overrides that together choose every file of every group; short groups repeat."""
    table = {group: names for group, names in CHOICES.items() if group not in ALONE}
    longest = max(map(len, table.values()))
    together = [[f"{group}={names[i % len(names)]}" for group, names in table.items()] for i in range(longest)]
    return together + [form.format(name).split() for group, form in ALONE.items() for name in CHOICES[group]]


@pytest.mark.parametrize("overrides", rows(), ids=lambda overrides: overrides[-1])
def test_every_file_composes_and_names_what_exists(compose, overrides):
    config = compose(*overrides)
    for target in targets(OmegaConf.to_container(config, resolve=True)):
        assert callable(get_object(target)), target


@pytest.mark.parametrize("name", CHOICES["sweep"])
def test_sweeps_go_over_what_exists(compose, name):
    params = OmegaConf.load(CONF / "sweep" / f"{name}.yaml").hydra.sweeper.params
    values = {key: str(value).split(",") for key, value in params.items()}
    for key in values.keys() & CHOICES.keys():
        assert set(values[key]) <= set(CHOICES[key])
    compose(f"sweep={name}", *[f"{key}={own[-1]}" for key, own in values.items()])


@pytest.mark.parametrize("sweep", ["family", "conversion", "heat"])
def test_methods_have_their_own_learning_rates(compose, sweep):
    rates = [
        compose(f"sweep={sweep}", f"decoder={decoder}", "+rates.lm_lte=2e-3").schedule.optimizer.lr
        for decoder in ("lm_lte", "srno")
    ]
    assert rates == [2e-3, 1e-3]
    assert compose(f"sweep={sweep}", "decoder=lm_lte", "schedule.optimizer.lr=5e-4").schedule.scheduler.max_lr == 5e-4


def test_conversion_trains_every_pair_alike():
    params = OmegaConf.load(CONF / "sweep" / "conversion.yaml").hydra.sweeper.params
    names = params.decoder.split(",")
    originals = [name for name in names if not name.startswith("lm_")]
    assert sorted(names) == sorted([*originals, *(f"lm_{name}" for name in originals)])
    assert params.seed == "0,1,2"


def targets(node: object) -> list[str]:
    """Return everything that ``_target_`` and ``task.run`` name."""
    if isinstance(node, (dict, DictConfig)):
        own = [str(node[key]) for key in ("_target_", "run") if isinstance(node.get(key), str)]
        return own + [t for value in node.values() for t in targets(value)]
    if isinstance(node, (list, ListConfig)):
        return [t for value in node for t in targets(value)]
    return []


def test_our_models_cost_what_they_promise(compose):
    """Multiply-adds for each LR pixel, from the widths of all layers."""

    def encoder(channels: int, blocks: int) -> int:
        return 9 * channels * (3 + (2 * blocks + 1) * channels)

    for experiment, channels, blocks in (("lm_liif_light", 32, 10), ("lm_liif_edsr_plus", 64, 21)):
        model = build(compose(f"experiment={experiment}"))
        assert sum(p.numel() for p in model.encoder.parameters() if p.dim() == 4) == encoder(channels, blocks)
    assert encoder(32, 10) < encoder(64, 16) / 6
    hypernetwork, rendering = 9 * 64 * 208 + 208 * 208, 16 * 4 * (20 * 16 + 5 * 16 * 16 + 16 * 3)  # at x4
    plus, baseline = (encoder(64, blocks) + hypernetwork + rendering for blocks in (21, 16))
    assert plus < 1.3 * baseline
