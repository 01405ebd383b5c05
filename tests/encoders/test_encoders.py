import numpy as np
import pytest
import torch

from lmf.encoders import EDSR, RDN, Identity, SwinIR
from lmf.encoders.swinir import WindowAttention, relative_index, shift_mask

TINY_SWIN = {"out_channels": 8, "embed": 12, "depths": [2, 2], "heads": [2, 3]}


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts():
    """Parameter counts match the published ones, without EDSR's 24 frozen parameters of two unused layers."""
    assert parameters(EDSR()) == 1_220_440 - 24
    assert parameters(RDN()) == 21_973_952
    assert parameters(SwinIR()) == 11_603_044


def test_rdn_config_a():
    c, g, layers, blocks = 64, 32, 6, 20
    block = sum(g * ((c + i * g) * 9 + 1) for i in range(layers)) + c * (c + layers * g + 1)
    ends = c * (27 + 1) + c * (9 * c + 1) + c * (blocks * c + 1) + c * (9 * c + 1)
    assert parameters(RDN(blocks=20, layers=6, growth=32)) == blocks * block + ends


@torch.no_grad()
@pytest.mark.parametrize("encoder", [EDSR(8, 2), RDN(8, 2, 3, 4), SwinIR(**TINY_SWIN), Identity()])
def test_keeps_the_resolution(encoder):
    lr = torch.rand(2, 3, 16, 24)
    out = encoder.eval()(lr)
    assert out.shape == (2, encoder.out_channels, 16, 24)
    torch.testing.assert_close(encoder(lr.transpose(2, 3).contiguous().transpose(2, 3)), out)


def test_swinir_says_what_it_takes():
    with pytest.raises(ValueError, match="multiples of 8, got 16 x 20"):
        SwinIR(**TINY_SWIN)(torch.zeros(1, 3, 16, 20))
    with pytest.raises(ValueError, match="even"):
        SwinIR(window=7)
    with pytest.raises(ValueError, match="equally long"):
        SwinIR(depths=[2], heads=[2, 2])
    with pytest.raises(ValueError, match="multiple of every number of heads"):
        SwinIR(embed=10, depths=[2], heads=[3])


def test_masks_enter_no_checkpoint():
    assert not dict(SwinIR(**TINY_SWIN).named_buffers())


def test_relative_index_is_row_major_offsets():
    index = relative_index(4, torch.device("cpu")).numpy()
    for query in range(16):
        for key in range(16):
            dy, dx = query // 4 - key // 4, query % 4 - key % 4
            assert index[query, key] == (dy + 3) * 7 + dx + 3


def test_shift_mask_separates_what_was_not_adjacent():
    """After rolling by half a window, two tokens attend to each other only if no picture edge lies between them."""
    h, w, n = 12, 8, 4
    mask = shift_mask((h, w), n, torch.device("cpu")).numpy()
    rows, cols = (np.roll(np.arange(size), -n // 2) for size in (h, w))  # original positions of the rolled tokens
    for window in range(len(mask)):
        top, left = window // (w // n) * n, window % (w // n) * n
        y, x = (a.ravel() for a in np.meshgrid(rows[top : top + n], cols[left : left + n], indexing="ij"))
        together = (np.abs(y[:, None] - y) < n) & (np.abs(x[:, None] - x) < n)
        np.testing.assert_array_equal(mask[window] == 0, together)
        assert set(np.unique(mask[window])) <= {-100.0, 0.0}


@torch.no_grad()
def test_window_attention_by_hand():
    torch.manual_seed(0)
    attention = WindowAttention(6, 2, 2)
    x = torch.rand(1, 4, 2, 6)
    index = relative_index(2, x.device)
    out = attention(x, index, None)
    tokens = x[0, 2:4].reshape(4, 6)  # the second window
    q, k, v = (
        tokens @ m.T + b for m, b in zip(attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3), strict=True)
    )
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        scores = q[:, part] @ k[:, part].T * 3**-0.5 + attention.bias_table[index][..., head]
        heads.append(scores.softmax(-1) @ v[:, part])
    torch.testing.assert_close(out[0, 2:4].reshape(4, 6), attention.proj(torch.cat(heads, -1)))


def test_recomputing_changes_no_gradient():
    torch.manual_seed(0)
    plain, recomputed = (SwinIR(**TINY_SWIN, drop_path=0.0, checkpoint=c).train() for c in (False, True))
    recomputed.load_state_dict(plain.state_dict())
    lr = torch.rand(1, 3, 16, 8)
    for model in (plain, recomputed):
        model(lr).square().sum().backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_stochastic_depth_only_while_training():
    torch.manual_seed(0)
    model = SwinIR(**TINY_SWIN, drop_path=0.5)
    blocks = [block for group in model.groups for block in group.blocks]
    assert [block.drop_path for block in blocks] == pytest.approx([0, 1 / 6, 1 / 3, 0.5])
    branch = torch.ones(4000, 1, 1, 1)
    kept = blocks[-1].train().dropped(branch)
    assert sorted(kept.unique().tolist()) == [0, 2]
    assert kept.mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(blocks[-1].eval().dropped(branch), branch)


@torch.no_grad()
def test_edsr_grows_by_blocks_that_change_nothing():
    torch.manual_seed(0)
    small, large = EDSR(8, 2, 0.5), EDSR(8, 4, 0.5)
    lr = torch.rand(1, 3, 12, 12)
    assert large.grow_from(small)
    torch.testing.assert_close(large(lr), small(lr), rtol=0, atol=0)
    gradients = torch.enable_grad()(lambda: torch.autograd.grad(large(lr).sum(), large.blocks[3].conv2.weight))()
    assert gradients[0].abs().max() > 0, "the new blocks can learn"


@pytest.mark.parametrize("other", [EDSR(8, 5, 0.5), EDSR(4, 2, 0.5), EDSR(8, 2), RDN(8, 2, 3, 4)])
def test_edsr_grows_from_nothing_else(other):
    encoder = EDSR(8, 4, 0.5)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert not encoder.grow_from(other)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
