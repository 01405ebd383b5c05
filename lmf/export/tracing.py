"""Traces a model into graphs that accept pictures of every size, any scale and any batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, default_decompositions, export
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from lmf import kernels
from lmf.errors import UserError, one_line
from lmf.export.graphs import LatentGraph, RenderGraph, WholeGraph, maps
from lmf.model import SRModel, evaluating

LONGEST = 1 << 24  # limit on the cells of an axis, as in `lmf.kernels`
# What PyTorch reports for + - * / // and %, with the tensor on either side.
ARITHMETIC = {
    Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.remainder, Tensor.__floordiv__,
    Tensor.__rsub__, Tensor.__rdiv__, Tensor.__rmod__, Tensor.__rfloordiv__,
}  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """A traced graph.

    Attributes:
        program: the graph in PyTorch's form.
        inputs: names of the inputs, in order.
        outputs: names of the outputs, in order.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def trace(model: SRModel, split: bool = False, half: bool = False) -> dict[str, Graph]:
    """Trace a model.

    Args:
        model: the model, on the CPU.
        split: make two graphs, ``latent`` and ``render``, instead of a single one, ``model``.
        half: store the weights in half precision. The graphs still compute in float32.

    Returns:
        The graphs by name; see `lmf.export.graphs` for their inputs and outputs.

    Raises:
        UserError: if the model cannot be written as such a graph.
    """
    check(model)
    # PyTorch takes a length of 1 as fixed, also that of a row of windows, and may mix up equal lengths.
    m = model.encoder.multiple
    shortest = m + 1 if m > 1 else 1
    batch, height, width = Dim("batch"), *(Dim(name, min=shortest, max=LONGEST) for name in ("height", "width"))
    picture, channels_last = {0: batch, 2: height, 3: width}, {0: batch, 1: height, 2: width}
    image, size = torch.rand(2, 3, 2 * m + 4, 3 * m + 7), torch.tensor([45, 67])
    scale, origin = size / size.new_tensor(image.shape[2:]).double(), torch.tensor([3, 4])
    with torch.no_grad(), evaluating(model):
        first = LatentGraph(model)
        latent, cell = first.latent(image, scale)
        second, named = RenderGraph(model, latent), maps(model, latent)
        if not split:
            program = traced(WholeGraph(first, second), (image, size), (picture, None), half)
            return {"model": Graph(program, ("image", "size"), ("picture",))}
        first_program = traced(first, (image, scale), (picture, None), half)
        dims = [picture if name == "skip" else channels_last for name in named]
        inputs = (*named.values(), cell, scale, origin, size)
        second_program = traced(second, inputs, (*dims, None, None, None, None), half)
    return {
        "latent": Graph(first_program, ("image", "scale"), (*named, "cell")),
        "render": Graph(second_program, (*named, "cell", "scale", "origin", "size"), ("picture",)),
    }


def check(model: SRModel) -> None:
    """Check that a graph can express ``model``.

    Raises:
        UserError: if it cannot; the message says why.
    """
    if reason := model.decoder.graph_obstacle:
        raise UserError(f"{type(model.decoder).__name__} cannot be exported as a graph: {reason}")
    if model.renderer.multi_scale:
        name = type(model.renderer).__name__
        raise UserError(f"{name} cannot be exported as a graph: it chooses pixels by their content; use renderer=dense")


def traced(module: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[Any, ...], half: bool) -> ExportedProgram:
    """Trace ``module`` into basic operations that runtimes share; a sampled grid becomes gathers.

    Args:
        module: one of `lmf.export.graphs`.
        inputs: example inputs.
        shapes: the dimensions of each input that stay open.
        half: see `trace`.

    Raises:
        UserError: if the operations of the module depend on the size or the content of the picture.
    """
    table = default_decompositions()
    table.update(torch._decomp.get_decompositions([torch.ops.aten.grid_sampler_2d]))
    try:
        with kernels.backend("reference"), SymbolicSizes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: ExportedProgram = export(
                Stored(module, half),
                inputs,
                dynamic_shapes=(shapes,),
                prefer_deferred_runtime_asserts_over_guards=True,  # for conditions that torch cannot prove
            ).run_decompositions(table)
    except (torch._dynamo.exc.UserError, RuntimeError) as error:
        raise UserError(
            f"this model cannot be exported as a graph for all sizes: {one_line(error, limit=200)}"
        ) from error
    for node in program.graph.nodes:  # they name files of this machine
        for fact in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(fact, None)
    return program


class Stored(nn.Module):
    """Computes what ``module`` computes, from a copy of its weights.

    Args:
        module: a module of float32 weights.
        half: store the copy in half precision and convert it in every call.
    """

    def __init__(self, module: nn.Module, half: bool) -> None:
        super().__init__()
        self.function = [module]  # in a list, so that its own weights do not belong to this module
        self.names = {name.replace(".", "_"): name for name, _ in module.named_parameters()}
        for flat, name in self.names.items():
            weight = module.get_parameter(name).detach().cpu()
            self.register_buffer(flat, weight.half() if half else weight)

    def forward(self, *inputs: Tensor) -> Any:
        weights = {name: self.get_buffer(flat).float() for flat, name in self.names.items()}
        # The decoder is reached on two paths. Its weights are named on one of them, and must be set only once.
        return functional_call(self.function[0], weights, inputs, tie_weights=False)


class SymbolicSizes(TorchFunctionMode):
    """Keeps sizes that are symbols during tracing as tensors where they meet tensors.

    PyTorch would otherwise replace them by the numbers of the example, or trace operations that ONNX lacks. Sizes
    become int64, quotients of sizes float64, so that they are rounded like Python's numbers.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.new_tensor and any(map(is_symbol, args[1])):
            return torch.stack([as_tensor(value).to(args[0].dtype) for value in args[1]])
        if func in ARITHMETIC:
            args = [as_tensor(value) if is_symbol(value) else value for value in args]
        return func(*args, **kwargs or {})


def is_symbol(value: object) -> bool:
    """Return whether ``value`` is a size, or a quotient of sizes, that tracing keeps open."""
    return isinstance(value, torch.SymInt | torch.SymFloat)


def as_tensor(value: Any) -> Tensor:
    """Return a number as a tensor without dimensions."""
    return torch.scalar_tensor(value, dtype=torch.int64 if isinstance(value, int | torch.SymInt) else torch.float64)
