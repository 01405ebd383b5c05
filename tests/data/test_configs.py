"""Tests that the data configs can be composed and instantiated."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lmf.data import DataError, EvalSettings, FileSettings, Sampling, SRDataModule

CONF = Path(__file__).parents[2] / "conf"
ROOT = """
defaults: [{{data: bundled}}, _self_]
seed: 3
paths: {{data: {data}, cache: {cache}}}
schedule:
  {{batch_size: 4, iterations: 5, patch: 8, queries: 10, min_scale: 1, max_scale: 2, graphics: 0, photometric: []}}
hydra: {{searchpath: ["file://{conf}"]}}
"""


def datamodule(tmp_path: Path, *overrides: str, data: Path | None = None) -> SRDataModule:
    root = ROOT.format(data=data or tmp_path / "data", cache=tmp_path / "cache", conf=CONF)
    (tmp_path / "config.yaml").write_text(root)
    with initialize_config_dir(str(tmp_path), version_base=None):
        return instantiate(compose("config", overrides=list(overrides)).data.module)


def test_bundled(tmp_path: Path) -> None:
    data = datamodule(tmp_path, "data.workers=0")
    data.setup()
    assert data.samples is not None
    assert (data.samples.seed, len(data.samples.images)) == (3, 10)
    assert [images.name for images in data.test_sets] == ["bundled_x2", "bundled_x3", "bundled_x4"]
    assert {images.protocol for images in data.test_sets} == {"benchmark"}
    item = data.val_sets[0][0]
    assert (item["name"], item["hr"].shape) == ("astronaut", (3, 256, 256))
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch["lr"].shape == (4, 3, 8, 8)


@pytest.mark.parametrize("choice", ["bundled", "folder"])
def test_scales_are_one_override_away(tmp_path: Path, photos: Path, choice: str) -> None:
    data = datamodule(
        tmp_path, f"data={choice}", "data.scales=[2,3.7]", *[f"data.root={photos}"] * (choice == "folder")
    )
    data.setup("test")
    assert [images.scale for images in data.test_sets] == [2, 3.7]


def test_dials_reach_the_datamodule(tmp_path: Path, photos: Path) -> None:
    dials = {"sets": ["folder"], "scales": [2.5], "protocol": "div2k", "lr": "matlab", "limit": 1, "crop": 16}
    val_dials = {"sets": None, "scales": [3], "protocol": "benchmark", "lr": "pil", "limit": 2, "crop": 12}
    options = [f"data.{name}={value}".replace("'", "") for name, value in dials.items()]
    options += [f"data.val_{name}={value}".replace("None", "null") for name, value in val_dials.items()]
    files = (f"data.root={photos}", f"data.val_root={photos}", "data.cache=null", "data.on_corrupt=skip")
    data = datamodule(tmp_path, "data=folder", *files, "data.workers=3", *options)
    assert data.test_settings == EvalSettings(**dials)
    assert data.val_settings == EvalSettings(**val_dials)
    assert data.sampling == Sampling(8, 10, 1, 2)
    assert data.files == FileSettings(None, "skip")
    assert (data.workers, data.batch_size, data.iterations, data.seed) == (3, 4, 5, 3)
    assert data.train is not None
    assert len(data.train.files()) == 5


def test_photometric_modules(tmp_path: Path) -> None:
    data = datamodule(tmp_path, "data.photometric=[{_target_:kornia.augmentation.RandomChannelShuffle}]")
    assert len(data.augment.photometric) == 1


def test_folder_needs_a_root(tmp_path: Path) -> None:
    with pytest.raises(InstantiationException, match=r"give their folder: data\.root="):
        datamodule(tmp_path, "data=folder")


def test_div2k_says_what_is_missing(tmp_path: Path) -> None:
    data = datamodule(tmp_path, "data=div2k", "data.train.download=false")
    data.prepare_data()
    with pytest.raises(DataError, match=r"download http://.*/DIV2K_train_HR\.zip"):
        data.setup("fit")
    with pytest.raises(DataError, match=r"DIV2K_valid_HR\.zip"):
        data.setup("test")


@pytest.mark.parametrize(
    ("stage", "archives"),
    [("test", ["valid"]), ("validate", ["valid"]), ("fit", ["train", "valid"]), (None, ["train", "valid", "valid"])],
)
def test_only_what_a_stage_needs_is_downloaded(tmp_path: Path, monkeypatch, stage, archives) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("lmf.data.sources.fetch_archive", lambda url, *_: fetched.append(Path(url).stem))
    datamodule(tmp_path, "data=div2k").prepare(stage)
    assert fetched == [f"DIV2K_{part}_HR" for part in archives]


def test_div2k_unpacked_by_hand(tmp_path: Path, photos: Path) -> None:
    for part in ("train", "valid"):
        (tmp_path / "data/DIV2K").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/DIV2K/DIV2K_{part}_HR").symlink_to(photos)
    data = datamodule(tmp_path, "data=div2k")
    data.prepare_data()
    data.setup()
    assert [images.name for images in data.test_sets] == [f"div2k_x{s}" for s in (2, 3, 4, 6, 12, 18, 24, 30)]
    assert {images.protocol for images in data.test_sets} == {"div2k"}


def test_benchmarks(tmp_path: Path, shared: Path) -> None:
    data = datamodule(tmp_path, "data=benchmarks", "data.sets=[set5,set14]", "data.scales=[4]", data=shared / "data")
    data.setup("test")
    assert [(images.name, len(images)) for images in data.test_sets] == [("set5_x4", 5), ("set14_x4", 14)]
    assert all(images.stored is not None for images in data.test_sets)


def test_missing_benchmarks_are_listed(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "data/benchmark/Set14").mkdir(parents=True)
    (tmp_path / "data/benchmark/Set14/HR").symlink_to(photos)
    with pytest.raises(DataError, match=r"set5: .*b100: .*urban100: .*data\.sets=\[set14,graphics\]"):
        datamodule(tmp_path, "data=benchmarks").setup("test")
