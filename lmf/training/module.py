"""The LightningModule: loss, optimiser, logging. Everything else is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
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
from lmf.errors import UserError
from lmf.io.colour import from_network, to_network
from lmf.metrics import PSNR, SSIM, Protocol
from lmf.model import SRModel
from lmf.training.results import Result
from lmf.training.resume import apply_options

Batch = dict[str, Any]

CHECK_EVERY = 20  # steps between looks at whether all is finite, since a device has to wait for each


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
        self.losses_finite = torch.tensor(True)  # those of all steps; a tensor, for which no step need wait
        self.results: list[Result] = []  # of the latest validation or test, a row for each set
        self.metrics = nn.ModuleList()  # for each set: those of the model, then those of bicubic

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        sets = data.test_sets if stage == "test" else data.val_sets
        prefixes = ["", "bicubic_"] if self.bicubic is not None else [""]
        self.metrics = nn.ModuleList(
            nn.ModuleList(set_metrics(s.protocol, s.scale, prefix) for prefix in prefixes) for s in sets
        )
        self.results = [Result(s.dataset, s.scale, 0, s.protocol) for s in sets]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(hash((self.seed, batch["number"], self.global_rank)) % 2**63)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        feat = batch["feat"].float() if "feat" in batch else None
        rgb = self.model(to_network(batch["lr"]), batch["coord"], batch["cell"], feat)  # (B, Q, 3)
        loss = F.l1_loss(rgb.float(), to_network(batch["target"]))
        self.losses_finite = self.losses_finite.to(loss.device) & loss.detach().isfinite()
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(rgb))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % CHECK_EVERY == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Stops training on all ranks if a loss or a weight on any of them is infinite or undefined.

        Raises:
            UserError: there is one.
        """
        finite = torch.stack(
            [self.losses_finite.to(self.device), *(p.isfinite().all() for p in self.parameters())]
        ).all()
        if self.trainer.strategy.reduce_boolean_decision(not finite, all=False):
            raise UserError(
                f"the loss or weights are not finite after step {self.trainer.global_step}, training stops; the "
                "checkpoints saved before are good: resume with a lower learning rate or with gradient clipping"
            )

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        return self.test_step(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor] | None:
        if not batch:  # only another rank has a picture left
            return None
        metrics = cast(nn.ModuleList, self.metrics[dataloader_idx])
        if self.bicubic is not None:
            self.measure(self.bicubic, metrics[1], batch)
        return self.measure(self.model, metrics[0], batch)

    def measure(self, model: SRModel, metrics: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Enlarges the picture of ``batch`` with ``model`` and updates ``metrics`` with it."""
        hr = batch["hr"]
        sr = from_network(model.render(to_network(batch["lr"]), hr.shape[-2:]))
        cast(MetricCollection, metrics).update(sr, hr)
        return {"sr": sr}

    def on_validation_epoch_start(self) -> None:
        self.results = [replace(row, values={}) for row in self.results]

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_validation_epoch_end(self) -> None:
        self.complete("val")

    def on_test_epoch_end(self) -> None:
        self.complete("test")

    def complete(self, stage: str) -> None:
        """Completes ``results`` with the metrics, and logs them and their means over the sets.

        Callbacks have added their own figures before. Loggers get ``val/set5_x4/psnr``,
        ``val/set5_x4/bicubic_psnr`` and the like, and the means as ``val/psnr`` and ``val/bicubic_psnr``.
        """
        for row, own in zip(self.results, self.metrics, strict=True):
            collections = [cast(MetricCollection, m) for m in cast(nn.ModuleList, own)]
            own_count = cast(PSNR, collections[0]["psnr"]).count.clone()  # the reduction is in place
            row.images = int(self.trainer.strategy.reduce(own_count, reduce_op="sum"))
            measured = {name: value.item() for m in collections for name, value in m.compute().items()}
            row.values = measured | row.values
            for m in collections:
                m.reset()
        logged = {f"{stage}/{row.name}/{name}": value for row in self.results for name, value in row.values.items()}
        for name in ("psnr", "bicubic_psnr"):
            values = [row.values[name] for row in self.results if name in row.values]
            if values:
                logged[f"{stage}/{name}"] = sum(values) / len(values)
        self.log_dict(logged, rank_zero_only=False)

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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._trainer is not None and self._trainer.state.fn == "fit" and self.optimizer is not None:
            made = self.configure_optimizers()
            optimizer, scheduler = (
                (made["optimizer"], made["lr_scheduler"]["scheduler"]) if isinstance(made, dict) else (made, None)
            )
            apply_options(checkpoint, optimizer, scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_finite()
        checkpoint["lmf"] = {"format": FORMAT, "config": self.model.config}


def set_metrics(protocol: Protocol, scale: float, prefix: str) -> MetricCollection:
    """PSNR and SSIM of one evaluation set, named ``PREFIXpsnr`` and ``PREFIXssim``."""
    metrics = {"psnr": PSNR(protocol, scale), "ssim": SSIM(protocol, scale)}
    return MetricCollection(metrics, compute_groups=False, prefix=prefix or None)  # type: ignore[arg-type]
