"""Training and measuring with Lightning."""

from lmf.errors import needed

with needed("train"):
    import lightning  # noqa: F401 (said here once, for all of the package)
    import torchmetrics  # noqa: F401
