"""The descriptor says what is true of the model."""

import pytest
import torch
from safetensors.torch import save_file

import lmf
from lmf import checkpoint

from ..export.conftest import make


def test_a_pretrained_model_is_described():
    found = lmf.load_descriptor("lm_liif_edsr")
    assert found.architecture == "LMLIIF-EDSR"
    assert found.purpose == "SR"
    assert found.scale is None
    assert (found.input_channels, found.output_channels) == (3, 3)
    assert found.size_requirements == checkpoint.SizeRequirements(minimum=1, multiple_of=1)
    assert found.licence is not None
    assert found.licence.startswith("Apache-2.0")
    assert found.card.items() <= lmf.list_models()["lm_liif_edsr"].items()
    assert found.parameters == sum(weight.numel() for weight in found.model.parameters())
    assert not found.model.training


def test_calls_accept_any_scale_and_size():
    found = lmf.load_descriptor("lm_liif_edsr")
    image = torch.rand(2, 3, 9, 7)
    assert torch.equal(found(image, scale=2.3), found.model.upscale(image, scale=2.3))
    assert found(image, size=(5, 31)).shape == (2, 3, 5, 31)
    assert found(torch.rand(1, 1, 1), scale=3).shape == (1, 3, 3)


def test_tiles_with_the_stated_overlap_give_the_whole_picture():
    found = lmf.load_descriptor("lm_liif_edsr")
    assert found.tiling
    image = torch.rand(1, 3, 8, 2 * found.overlap + 30)
    whole, cut = found(image, scale=2), found.overlap + 10
    tile = found(image[..., : cut + found.overlap], scale=2)
    inner = slice(0, 2 * cut)
    assert torch.allclose(tile[..., inner], whole[..., inner], atol=1e-3)
    assert not torch.allclose(tile[..., -4:], whole[..., tile.shape[-1] - 4 : tile.shape[-1]], atol=1e-3)


@pytest.mark.parametrize(("name", "multiple", "tiling"), [("lm_liif-swinir", 4, True), ("ciaosr-edsr", 1, False)])
def test_other_models(name, multiple, tiling):
    found = checkpoint.ModelDescriptor.of(make(name), {})
    assert found.size_requirements.multiple_of == multiple
    assert found.tiling == tiling
    assert (found.overlap is None) == (not tiling)
    assert found.licence is None
    assert found(torch.rand(1, 3, 7, 9), scale=2).shape == (1, 3, 14, 18)


def test_it_computes_in_the_stated_types():
    for dtype in lmf.load_descriptor("lm_liif_edsr").dtypes:
        model = lmf.load("lm_liif_edsr").to(dtype)
        with torch.no_grad():
            assert model.render(torch.zeros(1, 3, 4, 4, dtype=dtype), (6, 6)).dtype == dtype
    for dtype in lmf.load_descriptor("lm_liif_edsr").autocast:
        with torch.no_grad(), torch.autocast("cpu", dtype):
            assert lmf.load("lm_liif_edsr").render(torch.zeros(1, 3, 4, 4), (6, 6)).isfinite().all()


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(lmf.CheckpointError):
        lmf.load_descriptor(tmp_path / "other.safetensors")


def test_code_in_a_file_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"lmf": {}, "state_dict": {"a": Trap()}}, tmp_path / "trap.ckpt")
    with pytest.raises(lmf.CheckpointError):
        lmf.load_descriptor(tmp_path / "trap.ckpt")
    assert not (tmp_path / "executed").exists()
