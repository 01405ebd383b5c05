"""Writes models as graphs for ONNX and `torch.export`, which run without this package."""

from lmf.export.files import FORMATS, check_format, parts, save
from lmf.export.tracing import Graph, check, trace

__all__ = ["FORMATS", "Graph", "check", "check_format", "parts", "save", "trace"]
