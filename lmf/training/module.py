"""The LightningModule: loss, optimiser, logging. Everything else is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from lmf.checkpoint import FORMAT
from lmf.decoders import Bicubic
from lmf.encoders import Identity
from lmf.metrics import PSNR, SSIM
from lmf.model import SRModel

Batch = dict[str, Any]


class SRModule(L.LightningModule):
    """Trains and measures an `SRModel`.

    Batches hold pictures in [0, 1] (see `lmf.data`); the network sees ``2 x - 1``.

    Args:
        model: what is trained.
        optimizer: makes an optimiser from parameters; not needed to test.
        scheduler: makes a learning-rate schedule from the optimiser, or None.
        interval: ``"epoch"`` or ``"step"``: how often the schedule steps.
        seed: with the batch number and the rank it seeds everything random in a training step, so that a
            resumed run repeats what an uninterrupted one does.
        baseline: also measure bicubic interpolation on every set.
    """

    def __init__(
        self,
        model: SRModel,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        interval: str = "epoch",
        seed: int = 0,
        baseline: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.interval = interval
        self.seed = seed
        self.bicubic = SRModel(Identity(), Bicubic()) if baseline else None
        self.set_names: list[str] = []
        self.metrics = nn.ModuleDict()  # "model 0": of the model on set 0; filled in `setup`

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sets = data.test_sets if stage == "test" else data.val_sets
        kinds = ("model", "bicubic") if self.bicubic is not None else ("model",)
        self.metrics = nn.ModuleDict(
            {
                f"{kind} {i}": MetricCollection(
                    {"psnr": PSNR(s.protocol, s.scale), "ssim": SSIM(s.protocol, s.scale)}, compute_groups=False
                )
                for kind in kinds
                for i, s in enumerate(sets)
            }
        )
        self.set_names = [s.name for s in sets]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self.seed, batch["number"], self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        feat = batch["feat"].float() if "feat" in batch else None
        rgb = self.model(batch["lr"] * 2 - 1, batch["coord"], batch["cell"], feat)  # (B, Q, 3)
        loss = F.l1_loss(rgb.float(), batch["target"] * 2 - 1)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(rgb))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        return self.test_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        if not batch:  # only another rank has a picture left
            return None
        if self.bicubic is not None:
            self.measure(self.bicubic, "bicubic", batch, dataloader_idx)
        return self.measure(self.model, "model", batch, dataloader_idx)

    def measure(self, model: SRModel, kind: str, batch: Batch, set_index: int) -> dict[str, Tensor]:
        hr = batch["hr"]
        sr = (model.render(batch["lr"] * 2 - 1, hr.shape[-2:]) / 2 + 0.5).clamp(0, 1)
        cast(MetricCollection, self.metrics[f"{kind} {set_index}"]).update(sr, hr)
        return {"sr": sr}

    def on_validation_epoch_end(self) -> None:
        self.report("val")

    def on_test_epoch_end(self) -> None:
        self.report("test")

    def report(self, stage: str) -> None:
        """Logs ``val/set5_x4/psnr``, ``val/set5_x4/bicubic_psnr`` and the like, and their means over the sets."""
        results: dict[str, Tensor] = {}
        for key, module in self.metrics.items():
            metrics = cast(MetricCollection, module)
            kind, index = key.split()
            prefix = f"{stage}/{self.set_names[int(index)]}/" + ("" if kind == "model" else f"{kind}_")
            results |= {prefix + metric: value for metric, value in metrics.compute().items()}
            metrics.reset()
        for metric in ("psnr", "bicubic_psnr"):
            values = [value for name, value in results.items() if name.endswith(f"/{metric}")]
            if values:
                results[f"{stage}/{metric}"] = torch.stack(values).mean()
        self.log_dict({k: v.float() for k, v in results.items()}, rank_zero_only=False)

    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            return None
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": self.interval},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lmf"] = {"format": FORMAT, "config": self.model.config}
