"""Tests of which trained model a task uses and what it records."""

import pytest
from omegaconf import OmegaConf

import lmf
from lmf import checkpoint
from lmf.app import pipeline
from lmf.app.tasks import common
from lmf.errors import UserError

LIIF = {
    "encoder": {"_target_": "lmf.encoders.EDSR", "out_channels": 4, "blocks": 1},
    "decoder": {"_target_": "lmf.decoders.LIIF", "in_channels": 4, "hidden": [8]},
}
TASKS = (("task=test",), ("task=upscale", "input=a.png", "scale=2"), ("task=calibrate",),
         ("task=export", "output=a.safetensors"))  # fmt: skip
UPSCALE = TASKS[1]


@pytest.fixture
def liif(tmp_path):
    """Return a checkpoint of LIIF, while configs compose LM-LIIF by default."""
    checkpoint.save(checkpoint.build(LIIF), tmp_path / "liif.safetensors")
    return tmp_path / "liif.safetensors"


@pytest.mark.parametrize("task", ["test", "upscale", "export", "calibrate"])
@pytest.mark.parametrize("experiment", ["lmf_edsr", "lm_liif_edsr", "lm_lte_edsr"])
def test_an_experiment_means_its_pretrained_model(compose, task, experiment):
    """The rule is the same for every task and every order of the two overrides."""
    extra = {"upscale": ["input=a.png", "scale=2"], "export": ["output=a.safetensors"]}.get(task, [])
    for overrides in ([f"task={task}", f"experiment={experiment}"], [f"experiment={experiment}", f"task={task}"]):
        config = compose(*overrides, *extra)
        wanted = "lm_lte_edsr" if experiment == "lm_lte_edsr" else "lm_liif_edsr"
        assert common.checkpoint_file(config) == checkpoint.find(wanted)
        model = common.load(config)
        assert model.config["decoder"] == lmf.load(wanted).config["decoder"]


def test_without_an_experiment_upscaling_has_a_default(compose):
    assert common.checkpoint_file(compose(*UPSCALE)) == checkpoint.find("lm_liif_edsr")


@pytest.mark.parametrize("task", TASKS)
def test_an_experiment_without_a_pretrained_model_needs_a_checkpoint(compose, liif, task):
    with pytest.raises(UserError, match=r"which model\? experiment=liif_edsr has no pretrained model; give ckpt_path"):
        common.load(compose(*task, "experiment=liif_edsr"))
    assert type(common.load(compose(*task, "experiment=liif_edsr", f"ckpt_path={liif}")).decoder) is lmf.decoders.LIIF


@pytest.mark.parametrize("task", ["test", "calibrate", "export"])
def test_other_tasks_have_no_default(compose, task):
    with pytest.raises(UserError, match="which model"):
        common.load(compose(f"task={task}", *(["output=a.safetensors"] if task == "export" else [])))


def test_bicubic_needs_none(compose):
    model = common.load(compose(*UPSCALE, "experiment=bicubic"))
    assert type(model.decoder) is lmf.decoders.Bicubic


def test_last_is_the_last_run_of_the_name(compose, liif, tmp_path):
    last = tmp_path / "runs" / "lmf_edsr" / "a" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(liif.read_bytes())
    for overrides in (["experiment=lmf_edsr"], ["name=lmf_edsr"], ["experiment=liif_edsr", "name=lmf_edsr"]):
        assert common.checkpoint_file(compose("task=test", "ckpt_path=last", *overrides)) == last
    assert common.checkpoint_file(compose("task=test", "ckpt_path=last")) == last  # of any name
    with pytest.raises(UserError, match=r"no run in .*liif_edsr yet; give a path"):
        common.checkpoint_file(compose("task=test", "ckpt_path=last", "experiment=liif_edsr"))


def test_the_record_is_of_the_model_that_ran(compose, liif, tmp_path, caplog):
    caplog.set_level("INFO")
    options = ("data.limit=1", "data.crop=24", "data.scales=[2]", "data.workers=0", "callbacks.cost=null",
               "callbacks.pictures=null", "logger.wandb.mode=disabled", "trainer.accelerator=cpu")  # fmt: skip
    pipeline.run(compose("task=test", f"ckpt_path={liif}", *options))
    record = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert record.encoder == LIIF["encoder"]
    assert record.decoder == LIIF["decoder"]
    assert record.ckpt_path == str(liif)
    assert f"model: {liif} (EDSR + LIIF)" in caplog.text
    assert "LMLIIF" not in caplog.text
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("encoder=rdn", "encoder=rdn"),
        ("decoder=lm_lte", "decoder=lm_lte"),
        ("encoder.blocks=3", "encoder.blocks=3"),
        ("+decoder.depth=4", r"\+decoder.depth=4"),
        ("++encoder.res_scale=0.1", r"\+\+encoder.res_scale=0.1"),
        ("decoder.skip=bilinear", "decoder.skip=bilinear"),
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_overrides_that_cannot_apply_are_named(compose, liif, task, override, named):
    size = ["decoder=liif", "encoder.blocks=1"] if "=" in override.partition(".")[2] else []
    with pytest.raises(UserError, match=f"{named}: cannot change the model of .*liif.safetensors"):
        common.load(compose(*task, f"ckpt_path={liif}", *size, override))


def test_every_override_that_cannot_apply_is_named(compose, liif):
    overrides = ("encoder.blocks=3", "encoder.out_channels=4", "decoder=lm_lte")
    with pytest.raises(UserError, match=r"encoder.blocks=3, decoder=lm_lte: cannot"):
        common.load(compose("task=test", f"ckpt_path={liif}", *overrides))


def test_overrides_that_agree_are_allowed(compose, liif):
    """The options of the training command also work for a test."""
    agreeing = ("decoder=liif", "decoder.hidden=[8]", "encoder.blocks=1", "encoder.out_channels=4", "decoder.skip=none",
                "+decoder@task.extra=lm_lte", "schedule.patch=7")  # fmt: skip
    assert type(common.load(compose("task=test", f"ckpt_path={liif}", *agreeing)).decoder) is lmf.decoders.LIIF


def test_an_experiment_of_another_model_is_refused(compose, liif):
    with pytest.raises(UserError, match=r"experiment=lm_lte_edsr has the decoder .*LMLTE, .*liif.* holds a .*LIIF"):
        common.load(compose("task=test", "experiment=lm_lte_edsr", f"ckpt_path={liif}"))
    with pytest.raises(UserError, match=r"experiment=liif_rdn has the encoder .*RDN"):
        common.load(compose("task=test", "experiment=liif_rdn", f"ckpt_path={liif}"))


def test_tables_of_a_pretrained_model_are_not_written_over(compose):
    from lmf.app.tasks import calibrate

    with pytest.raises(UserError, match="give output=FILE"):
        calibrate.run(compose("task=calibrate", "experiment=lmf_edsr", "input=nowhere"))
