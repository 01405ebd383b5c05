"""What a run tells its loggers about itself."""

import hashlib
import os
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lmf.app import tracking

from ..conftest import TINY

SWEPT = {"schedule.optimizer.lr": "1e-3", "seed": "0"}


@pytest.fixture
def sweep(compose, monkeypatch):
    """Return ``sweep(keys, *overrides)``, the config of one job of a multirun over ``keys``."""

    def made(keys, *overrides):
        monkeypatch.setenv(tracking.SWEPT, ",".join(keys))
        return compose(*overrides)

    return made


def test_the_callback_publishes_what_is_swept(monkeypatch):
    monkeypatch.setenv(tracking.SWEPT, "")  # restored afterwards
    task = ["experiment=lmf_edsr", "schedule.optimizer.lr=1e-3,1e-4", "+extra=range(0,3)", "decoder.hyper=[16,32]"]
    hydra = {"overrides": {"task": task}, "sweeper": {"params": {"seed": "0,1"}}}
    tracking.SweptCallback().on_multirun_start(OmegaConf.create({"hydra": hydra}))
    assert os.environ[tracking.SWEPT] == "schedule.optimizer.lr,extra,seed"


def test_a_run_is_named_after_what_was_swept(sweep):
    config = sweep(SWEPT, "experiment=lmf_edsr", "schedule.epochs=7", *(f"{k}={v}" for k, v in SWEPT.items()))
    assert config.logger.wandb.name == "lmf_edsr lr=1e-3 seed=0"


def test_names_tell_keys_apart():
    keys = ["encoder.blocks", "decoder.blocks", "seed", "a.b.c", "x.b.c"]
    assert [tracking.short(key, keys) for key in keys] == ["encoder.blocks", "decoder.blocks", "seed", "a.b.c", "x.b.c"]
    assert tracking.short("schedule.optimizer.lr", ["schedule.optimizer.lr", "seed"]) == "lr"


def test_group_job_type_tags_and_notes(compose, monkeypatch):
    config = compose("experiment=lmf_edsr", "schedule.optimizer.lr=0.01")
    wandb = config.logger.wandb
    assert (wandb.name, wandb.group, wandb.job_type) == ("lmf_edsr", "lmf_edsr", "fit")
    assert list(wandb.tags) == ["lmf_edsr", "bundled", "quick"]
    assert "experiment=lmf_edsr schedule.optimizer.lr=0.01" in wandb.notes
    config = compose("task=test", "encoder=rdn", "decoder=liif")
    assert list(config.logger.wandb.tags) == ["rdn", "liif", "bundled"]
    assert config.logger.wandb.job_type == "test"
    monkeypatch.setenv("LMF_SWEEP_DIR", "runs/lmf_edsr/sweep-0123456789")
    assert compose("experiment=lmf_edsr").logger.wandb.group == "sweep-0123456789"


def test_facts_are_flat_and_complete(compose):
    config = compose(*TINY, "experiment=lmf_edsr", "schedule.optimizer.lr=0.01")
    facts = tracking.facts(config)
    assert facts["schedule.optimizer.lr"] == 0.01
    assert facts["decoder.depth"] == 2
    assert facts["decoder.hyper"] == [16]
    assert facts["choices.experiment"] == "lmf_edsr"
    assert facts["choices.schedule"] == "quick"
    assert facts["code.version"]
    assert not any(isinstance(value, dict) for value in facts.values())
    # Every leaf of the config but those of the loggers, and of the datamodule, which repeats data and schedule.
    config = OmegaConf.to_container(config, resolve=True)
    del config["logger"], config["data"]["module"]

    def leaves(node, prefix=""):
        for key, value in node.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    assert set(leaves(config)) <= facts.keys()


def test_data_sets_are_identified_by_content(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name, content in (("a.png", b"one"), ("b.png", b"two")):
            (tmp_path / folder / name).write_bytes(content)
    here, there = (sorted((tmp_path / folder).iterdir()) for folder in ("here", "there"))
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"one", b"two"))
    expected = hashlib.sha256(f"a.png {one}\nb.png {two}\n".encode()).hexdigest()[:16]
    assert tracking.digest(here) == tracking.digest(there[::-1]) == expected
    there[0].write_bytes(b"own")  # as long as before
    assert tracking.digest(there) != expected


def test_large_data_sets_are_identified_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "CONTENT_LIMIT", 3)
    (tmp_path / "a.png").write_bytes(b"four")
    first = tracking.digest([tmp_path / "a.png"])
    (tmp_path / "a.png").write_bytes(b"5678")
    assert tracking.digest([tmp_path / "a.png"]) == first
    assert first.startswith("size-")


@pytest.mark.parametrize(("stage", "names"), [("fit", ["train", "val.bundled"]), ("test", ["test.bundled"])])
def test_the_sets_of_a_stage(stage, names, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    images = SimpleNamespace(paths=[picture])
    sets = [SimpleNamespace(dataset="bundled", images=images)] * 2  # at two scales
    data = SimpleNamespace(samples=SimpleNamespace(images=images), val_sets=sets, test_sets=sets)
    assert list(tracking.data_files(data, stage)) == names
