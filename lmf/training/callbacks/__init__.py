"""What happens beside training: costs, pictures, checkpoints that survive a full disk."""

from lmf.training.callbacks.checkpoint_io import AtomicCheckpointIO
from lmf.training.callbacks.cmsr import CMSRCallback
from lmf.training.callbacks.cost import CostCallback
from lmf.training.callbacks.pictures import PicturesCallback

__all__ = ["AtomicCheckpointIO", "CMSRCallback", "CostCallback", "PicturesCallback"]
