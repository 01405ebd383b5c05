from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).parents[3] / "conf" / "callbacks"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_callbacks_run_together(path, module, data, make_trainer, tmp_path, capsys):
    around = {"paths": {"output": str(tmp_path / "run")}, "schedule": {"save_every": 1}}
    config = OmegaConf.create({**around, "callbacks": OmegaConf.load(path)})
    if "cost" in config.callbacks:
        config.callbacks.cost.lr_size = [4, 6]
    callbacks = [instantiate(c) for c in config.callbacks.values()]
    shown = "progress" in config.callbacks
    trainer = make_trainer(*callbacks, max_epochs=2, enable_progress_bar=shown, enable_checkpointing=shown)
    trainer.fit(module, datamodule=data)
    written = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    if path.stem == "none":
        assert not written
        return
    assert {p for p in written if p.endswith(".ckpt")} == {"checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert "pictures/epoch0001_set5_x2_bird.png" in written
    out = capsys.readouterr().out
    assert "Epoch 1/1" in out
    assert "EDSR + LIIF" in out
