import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lmf.training.callbacks import PicturesCallback
from lmf.training.callbacks.pictures import choose_box, save_png


def test_one_strip_per_picture(module, data, make_trainer, tmp_path):
    callback = PicturesCallback(tmp_path, images=2, crop=16, where="centre")
    make_trainer(callback).fit(module, datamodule=data)
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [f"epoch0000_{s}_{n}.png" for s in ("set5_x2.5", "set5_x2") for n in ("baby", "bird")]

    item = data.val_sets[0][0]
    lr, hr = item["lr"], item["hr"]
    strip = np.asarray(Image.open(tmp_path / "pictures" / "epoch0000_set5_x2_baby.png"))
    assert strip.shape == (288 + 20, 4 * 288 + 3 * 6, 3)  # 18 x 18 pixels for each of the 16 x 16
    large = [strip[20:, i * 294 : i * 294 + 288] for i in range(4)]
    shown = [picture[::18, ::18] for picture in large]
    assert all(np.array_equal(x, y.repeat(18, 0).repeat(18, 1)) for x, y in zip(large, shown, strict=True))
    rows, cols = slice(16, 32), slice(12, 28)  # the centre of 48 x 40

    def pixels(x: torch.Tensor) -> np.ndarray:
        return (x * 255).round().byte().permute(1, 2, 0).numpy()

    assert np.array_equal(shown[3], pixels(hr)[rows, cols])
    assert np.array_equal(shown[0], pixels(lr.repeat_interleave(2, 1).repeat_interleave(2, 2))[rows, cols])
    bands = [
        np.asarray(Image.fromarray(band.numpy()).resize((40, 48), Image.Resampling.BICUBIC)).clip(0, 1) for band in lr
    ]
    bicubic = np.stack(bands, axis=-1)[rows, cols] * 255
    assert np.abs(shown[1] - bicubic).max() < 0.51


def test_shows_the_output_of_the_step_under_its_psnr(tmp_path):
    callback = PicturesCallback(tmp_path)
    hr = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    sr = (hr + 0.1).clamp(0, 1)
    strip, caption = callback.strip(hr[..., ::2, ::2], sr, hr, ((2, 18), (4, 20)))
    error = (sr - hr)[..., 2:18, 4:20].square().mean().item()
    assert f"ours {-10 * np.log10(error):.2f} dB | HR (PSNR of this crop)" in caption
    ours = np.asarray(strip)[20::18, 588 : 588 + 288 : 18]
    assert np.array_equal(ours, (sr[0, :, 2:18, 4:20] * 255).round().byte().permute(1, 2, 0).numpy())


def test_only_chosen_sets_every_other_validation(module, data, make_trainer, tmp_path):
    callback = PicturesCallback(tmp_path, sets=["set5_x2.5"], images=1, every=2)
    make_trainer(callback, max_epochs=4).fit(module, datamodule=data)
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["epoch0000_set5_x2.5_baby.png", "epoch0002_set5_x2.5_baby.png"]


def test_wandb_gets_them_with_captions(module, data, make_trainer, tmp_path):
    logged = []

    class Offline(WandbLogger):
        name = version = "test"

        def __init__(self) -> None:
            pass

        def log_image(self, *args, **options) -> None:
            logged.append((args, options))

        def __getattribute__(self, attribute):  # all other hooks do nothing
            mine = ("__class__", "log_image", "name", "version")
            return object.__getattribute__(self, attribute) if attribute in mine else lambda *args, **options: None

    make_trainer(PicturesCallback(tmp_path, images=1), logger=Offline()).fit(module, datamodule=data)
    assert [a[0] for a, _ in logged] == ["pictures/set5_x2", "pictures/set5_x2.5"]
    (_, pictures), options = logged[0]
    assert options["step"] == 2
    assert options["caption"][0].startswith("baby: LR | bicubic ")
    assert len(pictures) == len(options["caption"]) == 1


def test_detail_is_where_the_edges_are():
    hr = torch.full((1, 3, 64, 80), 0.5)
    hr[..., 40:56, 8:24] = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    (top, bottom), (left, right) = choose_box(hr, 16, "detail")
    assert abs(top - 40) <= 4
    assert abs(left - 8) <= 4
    assert (bottom - top, right - left) == (16, 16)
    assert choose_box(hr, 100, "detail") == ((0, 64), (0, 80))
    assert choose_box(hr, 70, "centre") == ((0, 64), (5, 75))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, path, format):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "pictures" / "x.png")
    assert list((tmp_path / "pictures").iterdir()) == []


def test_errors(module, data, make_trainer, tmp_path):
    with pytest.raises(ValueError, match="must be at least 1, got 0, 96 and 1"):
        PicturesCallback(tmp_path, images=0)
    with pytest.raises(ValueError, match=r"where must be one of .* got 'corner'"):
        PicturesCallback(tmp_path, where="corner")
    with pytest.raises(ValueError, match=r"sets must be some of set5_x2, set5_x2\.5, got set14_x2"):
        make_trainer(PicturesCallback(tmp_path, sets=["set14_x2"])).fit(module, datamodule=data)
