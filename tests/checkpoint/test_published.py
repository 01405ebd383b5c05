import copy

import pytest
import torch

from lmf import checkpoint
from lmf.checkpoint import CheckpointError, published
from tests import golden


@pytest.fixture(scope="module")
def models():
    return golden.frozen()


def zeros(g):
    return {key: torch.zeros(shape) for key, shape in g.keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec.update(name="srno"), "unknown model 'srno'; known: liif"),
        (lambda spec: spec["args"]["encoder_spec"].update(name="hat"), "unknown encoder 'hat'; known: edsr"),
        (lambda spec: spec["args"].update(feat_unfold=False), "feat_unfold=False is not supported"),
        (lambda spec: spec["args"]["imnet_spec"]["args"].update(mod_up_merge=True), "mod_up_merge=True"),
        (lambda spec: spec.pop("name"), "needs name and args"),
        (lambda spec: spec["args"].pop("imnet_spec"), "no imnet_spec in its description"),
    ],
)
def test_what_is_wrong_in_one_line(models, change, message):
    g = models["lm_liif"]
    spec = copy.deepcopy(g.spec)
    change(spec)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.from_authors(spec, zeros(g))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lm_liif", "lte", "ciaosr", "lm_lte_swinir", "lm_liif_rdn"])
def test_missing_weights_in_one_line(models, name):
    g = models[name]
    with pytest.raises(CheckpointError) as error:
        checkpoint.from_authors(g.spec, {})
    assert "\n" not in str(error.value)
    state = zeros(g)
    state.pop(next(reversed(state)))
    with pytest.raises(CheckpointError, match=r"Missing key|no .* in its description or weights"):
        checkpoint.from_authors(g.spec, state)


def test_what_is_mended_is_said(models):
    def notes(name):
        return " ".join(published.convert(models[name].spec, zeros(models[name]))[2])

    assert "mean-shift" in notes("liif")
    assert "under 48" in notes("ciaosr")
    assert "skip" not in notes("ciaosr")
    assert "under 48" in notes("lm_ciaosr")
    assert "bilinear skip" in notes("lm_ciaosr")
    assert "padded" in notes("lm_lte_swinir")


def test_sizes_are_read_from_the_weights(models):
    """Their descriptions give output widths that their code ignores."""
    g = models["lm_liif_swinir"]
    config, _, _ = published.convert(g.spec, zeros(g))
    decoder = config["decoder"]
    assert (decoder["width"], decoder["depth"], decoder["code_channels"]) == (16, 8, 16)
    encoder = config["encoder"]
    assert (encoder["window"], encoder["embed"], encoder["depths"], encoder["mlp_ratio"]) == (8, 180, [6] * 6, 2.0)
    assert (
        published.convert(models["lm_liif_noinput"].spec, zeros(models["lm_liif_noinput"]))[0]["decoder"][
            "code_channels"
        ]
        == 0
    )
