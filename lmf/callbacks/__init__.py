"""What happens beside training: costs, pictures, checkpoints that survive a full disk."""

from lmf.callbacks.checkpoint_io import AtomicCheckpointIO
from lmf.callbacks.cost import CostCallback
from lmf.callbacks.pictures import PicturesCallback
from lmf.callbacks.precision import PrecisionCallback

__all__ = ["AtomicCheckpointIO", "CostCallback", "PicturesCallback", "PrecisionCallback"]
