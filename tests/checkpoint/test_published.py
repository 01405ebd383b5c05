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


def test_notes_say_what_is_not_translated_exactly(models):
    def notes(name):
        return " ".join(published.convert(models[name].spec, zeros(models[name]))[2])

    assert "mean-shift" in notes("liif")
    assert "below 48" in notes("ciaosr")
    assert "skip" not in notes("ciaosr")
    assert "below 48" in notes("lm_ciaosr")
    assert "bilinear skip" in notes("lm_ciaosr")
    assert "pads images" in notes("lm_lte_swinir")


def test_sizes_are_read_from_the_weights(models):
    """The descriptions contain output widths that the published code ignores."""
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


def edsr_spec(name, **args):
    return {
        "name": "liif",
        "args": {"encoder_spec": {"name": name, "args": {"no_upsampling": True, **args}},
                 "imnet_spec": {"name": "mlp", "args": {"out_dim": 3, "hidden_list": [5]}}},
    }  # fmt: skip


def edsr_weights(width=4, blocks=2):
    names = {"head.0": (width, 3), f"body.{blocks}": (width, width)}
    names |= {f"body.{i}.body.{j}": (width, width) for i in range(blocks) for j in (0, 2)}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in names.items():
        state[f"encoder.{name}.weight"] = torch.randn(*shape, 3, 3, generator=generator) / 4
        state[f"encoder.{name}.bias"] = torch.randn(shape[0], generator=generator) / 4
    for i, shape in ((0, (5, 9 * width + 4)), (2, (3, 5))):
        state[f"imnet.layers.{i}.weight"] = torch.randn(*shape, generator=generator)
        state[f"imnet.layers.{i}.bias"] = torch.randn(shape[0], generator=generator)
    return state


@pytest.mark.parametrize(
    ("name", "args", "factor"),
    [
        ("edsr", {}, 0.1),
        ("edsr", {"res_scale": 1}, 1.0),
        ("edsr-baseline", {}, 1.0),
        ("edsr-baseline", {"res_scale": 0.5}, 0.5),
    ],
)
def test_edsr_scales_its_residuals_as_published(name, args, factor):
    state = edsr_weights()
    encoder = checkpoint.from_authors(edsr_spec(name, **args), state).encoder

    def conv(x, key):
        weight, bias = (state[f"encoder.{key}.{kind}"].double() for kind in ("weight", "bias"))
        return torch.nn.functional.conv2d(x, weight, bias, padding=1)

    x = torch.rand(1, 3, 7, 6, generator=torch.Generator().manual_seed(1))
    head = conv(x.double(), "head.0")
    y = head
    for i in range(2):
        y = y + factor * conv(conv(y, f"body.{i}.body.0").relu(), f"body.{i}.body.2")
    y = conv(y, "body.2") + head
    with torch.no_grad():
        torch.testing.assert_close(encoder(x).double(), y, rtol=1e-5, atol=1e-5)


def test_parts_of_another_name_are_refused(models):
    """The weights of another part may fit although they mean something else."""
    for name, part in (("liif", "imnet_spec"), ("lm_lte", "imnet_spec"), ("lm_liif", "hypernet_spec"),
                       ("ciaosr", "imnet_k"), ("lm_ciaosr", "prenet_q")):  # fmt: skip
        spec = copy.deepcopy(models[name].spec)
        spec["args"][part]["name"] = "siren"
        with pytest.raises(CheckpointError, match=f"{part} is a 'siren'"):
            checkpoint.from_authors(spec, zeros(models[name]))


@pytest.mark.parametrize("change", [{"res_scale": 1, "act": "gelu"}, {"window_size": 16}])
def test_unknown_options_are_noted(models, change):
    spec = copy.deepcopy(models["liif"].spec)
    spec["args"]["encoder_spec"]["args"] |= change
    key, value = list(change.items())[-1]
    _, _, notes = published.convert(spec, zeros(models["liif"]))
    assert f"encoder: unknown options are ignored: {key}={value!r}" in notes


def test_no_note_for_the_options_of_published_checkpoints(models):
    for g in models.values():
        assert "unknown" not in " ".join(published.convert(g.spec, zeros(g))[2])


@pytest.mark.parametrize(("name", "key"), [("lm_liif", "tail.0.0.weight"), ("lm_liif_rdn", "UPNet.0.weight"),
                                           ("lm_lte_swinir", "upsample.0.weight")])  # fmt: skip
def test_encoders_that_enlarge_are_refused(models, name, key):
    state = zeros(models[name]) | {f"encoder.{key}": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=f"has an upsampler \\({key}\\)"):
        checkpoint.from_authors(models[name].spec, state)


@pytest.mark.parametrize("name", ["lm_liif", "lm_lte", "lm_ciaosr"])
def test_modulations_left_out_mean_both(models, name):
    spec = copy.deepcopy(models[name].spec)
    part = spec["args"]["imnet_q" if name == "lm_ciaosr" else "imnet_spec"]["args"]
    del part["mod_scale"], part["mod_shift"], spec["args"]["mod_input"]
    ours = [published.convert(s, zeros(models[name]))[0] for s in (spec, models[name].spec)]
    assert ours[0] == ours[1]
    part["mod_shift"] = False
    with pytest.raises(CheckpointError, match="mod_shift=False is not supported"):
        checkpoint.from_authors(spec, zeros(models[name]))
