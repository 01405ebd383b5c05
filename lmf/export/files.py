"""Writes traced graphs to files, each with the model's card and a description of the graph."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from lmf.checkpoint import ModelDescriptor
from lmf.errors import UserError, needed
from lmf.export.tracing import Graph, check, trace
from lmf.io.files import replacing
from lmf.model import SRModel

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
OPSET = 18  # of ONNX; read by onnxruntime from 1.14 on


def parts(path: Path, split: bool) -> dict[str, Path]:
    """Return the files of the graphs by name: ``path``, or ``NAME.latent.SUFFIX`` and ``NAME.render.SUFFIX``."""
    if not split:
        return {"model": path}
    return {name: path.with_name(f"{path.stem}.{name}{path.suffix}") for name in ("latent", "render")}


def save(
    model: SRModel,
    path: str | os.PathLike[str],
    card: Mapping[str, Any] | None = None,
    *,
    fmt: str = "onnx",
    split: bool = False,
    half: bool = False,
) -> list[Path]:
    """Write a model as graphs that run without this package.

    Args:
        model: the model, on the CPU.
        path: file to write, ending in the suffix of the format.
        card: facts for the metadata (data, recipe, results, licence), JSON-serialisable.
        fmt: ``"onnx"`` or ``"torch_export"``, a program of `torch.export`.
        split: write two graphs, see `parts`.
        half: store the weights in half precision. The graphs still compute in float32.

    Returns:
        The files written.

    Raises:
        UserError: if the format, the suffix or the model does not allow it.
        MissingExtra: if the packages of ``lmf[onnx]`` are needed and not installed.
        OSError: if a file cannot be written. The previous files do not change.
    """
    path = Path(path)
    check_format(path, fmt)
    check(model)
    files = parts(path, split)
    serialize = to_onnx if fmt == "onnx" else to_torch
    graphs = trace(model, split, half)
    data = {name: serialize(graph, metadata(model, name, card or {})) for name, graph in graphs.items()}
    with ExitStack() as stack:  # all files appear after all are written
        for name, file in files.items():
            stack.enter_context(replacing(file)).write_bytes(data[name])
    return [*files.values()]


def check_format(path: Path, fmt: str) -> None:
    """Check that ``path`` can be written as ``fmt``.

    Raises:
        UserError: if the format is unknown or the suffix is another one's.
        MissingExtra: if the format needs packages that are not installed.
    """
    if fmt not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {fmt!r}")
    if path.suffix != FORMATS[fmt]:
        raise UserError(f"output={path}: must end in {FORMATS[fmt]} for format={fmt}")
    if fmt == "onnx":
        with needed("onnx"):
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401


def metadata(model: SRModel, name: str, card: Mapping[str, Any]) -> dict[str, str]:
    """Return the description of the graph ``name`` and the card, each as JSON."""
    described = ModelDescriptor.of(model, card)
    facts = {
        "graph": name,
        "architecture": described.architecture,
        "input_channels": described.input_channels,
        "output_channels": described.output_channels,
        "config": model.config,
    }
    return {"lmf": json.dumps(facts), "card": json.dumps(dict(card))}


def to_torch(graph: Graph, facts: Mapping[str, str]) -> bytes:
    """Return ``graph`` as a file that `torch.export.load` reads, with ``facts`` as extra files."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(graph.program, buffer, extra_files=dict(facts))
    return buffer.getvalue()


def to_onnx(graph: Graph, facts: Mapping[str, str]) -> bytes:
    """Return ``graph`` as an ONNX file, with ``facts`` in its ``metadata_props``."""
    import onnx

    with quiet():
        # The exporter's optimiser takes constants near 0, such as the 1e-9 of `lmf.grid.ensemble`, for 0.
        program = torch.onnx.export(
            graph.program,
            input_names=[*graph.inputs],
            output_names=[*graph.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    named_axes(proto.graph)
    for entry in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del entry.metadata_props[:]  # names of traced nodes
    onnx.helper.set_model_props(proto, dict(facts))
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


def named_axes(graph: Any) -> None:
    """Call the open dimensions of an ONNX graph batch, height and width, and those of its picture rows and cols."""
    dims = graph.input[0].type.tensor_type.shape.dim
    names = dict(zip((d.dim_param for d in dims if d.dim_param), ("batch", "height", "width"), strict=True))
    for value in graph.output:
        if value.name == "picture":
            rows, cols = value.type.tensor_type.shape.dim[2:]
            names |= {rows.dim_param: "rows", cols.dim_param: "cols"}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters, on whose messages nobody can act."""
    loggers = {name: logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
