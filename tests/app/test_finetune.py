"""Tests of training from given weights: `init_from`, and schedules that freeze the encoder."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image
from skimage import data

import lmf
from lmf.app import pipeline

from ..conftest import TINY

DECODER = (
    "schedule=decoder",
    "schedule.cached_crops=4",
    "schedule.crop_side=24",
    "schedule.patch=6",
    "schedule.ema=null",
)


@pytest.fixture
def options(tmp_path):
    return (
        *(o for o in TINY if o not in ("data.cache=null", "schedule.patch=12")),
        f"paths.cache={tmp_path / 'cache'}",
    )


@pytest.fixture
def donor(compose, options, tmp_path):
    pipeline.run(compose(*options, "schedule.epochs=1", output=tmp_path / "donor"))
    return tmp_path / "donor"


def states(folder):
    model = lmf.load(folder / "checkpoints" / "last.ckpt")
    return model.encoder.state_dict(), model.decoder.state_dict()


def test_decoder_schedule_trains_the_decoder_alone(compose, options, donor, tmp_path):
    # the decoder differs from that of `init_from`, so only the encoder is copied
    run = (*options, *DECODER, f"init_from={donor}", "decoder.depth=3")
    pipeline.run(compose(*run, output=tmp_path / "whole"))
    (before, _), (after, decoder) = states(donor), states(tmp_path / "whole")
    assert all(torch.equal(before[key], after[key]) for key in before)

    pipeline.run(compose(*run, "+trainer.max_steps=4", "callbacks.last=null", output=tmp_path / "part"))
    stopped = states(tmp_path / "part")[1]
    pipeline.run(compose(*run, "ckpt_path=last", output=tmp_path / "part"))
    resumed = states(tmp_path / "part")[1]
    assert any(not torch.equal(decoder[key], stopped[key]) for key in decoder)
    assert all(torch.equal(decoder[key], resumed[key]) for key in decoder)


def test_finetuning_starts_from_all_of_the_same_make(compose, options, donor, tmp_path):
    still = ("schedule=finetune", "schedule.ema=null", "schedule.optimizer.lr=0", "schedule.patch=12")
    pipeline.run(compose(*options, *still, f"init_from={donor}", output=tmp_path / "same"))
    for ours, theirs in zip(states(tmp_path / "same"), states(donor), strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("bounded", ["false", "true"])
def test_options_without_weights_do_not_keep_the_decoder_from_starting_there(
    compose, options, donor, tmp_path, bounded, caplog
):
    file = tmp_path / "donor.safetensors"
    export = ("task=export", f"ckpt_path={donor}", f"output={file}", "half=false", f"bounds={tmp_path / 'photos'}")
    (tmp_path / "photos").mkdir()
    Image.fromarray(data.astronaut()).save(tmp_path / "photos" / "astronaut.png")
    pipeline.run(compose(*options, *export))
    still = ("schedule=finetune", "schedule.ema=null", "schedule.optimizer.lr=0", "schedule.patch=12")
    changed = (f"decoder.bounded={bounded}", "schedule.max_scale=6", "schedule.skip=none")
    caplog.set_level(logging.INFO)
    pipeline.run(compose(*options, *still, *changed, f"init_from={file}", output=tmp_path / "other"))
    decoder, original = states(tmp_path / "other")[1], lmf.load(file).decoder.state_dict()
    assert all(torch.equal(decoder[key], original[key]) for key in decoder)
    assert ("feat_low" in decoder) == (bounded == "true")
    assert "encoder and decoder from" in caplog.text
    assert "'clip_scale': 6" in caplog.text


def test_a_decoder_that_starts_anew_is_named(compose, options, donor, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pipeline.run(compose(*options, *DECODER, f"init_from={donor}", "decoder.depth=3", output=tmp_path / "new"))
    assert "the decoder starts anew, since that of" in caplog.text
    assert "has other depth" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("encoder.res_scale=0.5", "init_from=DONOR"), "its encoder is"),
        (DECODER, "give init_from="),
        ((*DECODER, "init_from=DONOR", "decoder=ciaosr"), "schedule=finetune"),
        (("init_from=nowhere",), "no such checkpoint"),
    ],
)
def test_what_cannot_be_is_said_at_once(compose, options, donor, tmp_path, caplog, overrides, message):
    fits = [o for o in options if "ciaosr" not in str(overrides) or not o.startswith("decoder.")]
    with pytest.raises(SystemExit):
        pipeline.run(compose(*fits, *(o.replace("DONOR", str(donor)) for o in overrides), output=tmp_path / "bad"))
    assert message in caplog.text
    assert not (tmp_path / "bad" / "checkpoints").exists()
