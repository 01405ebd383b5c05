"""Training and evaluation with Lightning."""

from lmf.errors import needed

with needed("train"):
    import lightning  # noqa: F401 (checked once for all modules of the package)
    import torchmetrics  # noqa: F401
