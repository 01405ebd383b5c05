"""Models from files: run folders, Lightning checkpoints, safetensors, and published checkpoints.

Weights are read with safe unpickling or safetensors, and a config found in a file can only name classes of
this package or of packages the caller trusts: nothing in a data file is ever executed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lmf.checkpoint import foreign, published
from lmf.checkpoint.pickles import CheckpointError, check_finite, is_safetensors, kind_of, unpickle
from lmf.checkpoint.translate import without_wrappers
from lmf.decoders.base import Decoder
from lmf.encoders.base import Encoder
from lmf.errors import UserError, one_line
from lmf.io.files import write_bytes
from lmf.model import SRModel
from lmf.weights import bundled

FORMAT = 1
PARTS = ("encoder", "decoder", "renderer")
SOURCES = "a run folder, .ckpt, .safetensors, .pth, or a name of lmf.list_models()"


def load(source: str | os.PathLike[str], *, trust: Sequence[str] = (), device: str | torch.device = "cpu") -> SRModel:
    """A model in evaluation mode from whatever holds one.

    Args:
        source: a name of `lmf.list_models`, a run folder, or a file: a ``.ckpt`` of this project, a ``.safetensors``
            written by `save`, or a published model, with its description (``{"model": {"name", "args", "sd"}}``) or
            as a state dict whose names and shapes show which model it is. The content decides, not the suffix.
        trust: packages beside ``lmf`` whose encoders, decoders and renderers the file may name.
        device: where to put it.

    Raises:
        CheckpointError: no such file, damaged, not a model, or with weights that are not finite.
    """
    path = find(source)
    config, state = _read(path)
    check_finite(state, path)
    try:
        model = build(config, trust=trust)
        model.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    return model.eval().to(device)


def save(
    model: SRModel, path: str | os.PathLike[str], card: Mapping[str, Any] | None = None, half: bool = False
) -> None:
    """Writes weights and config to a ``.safetensors`` that `load` reads back.

    Args:
        half: store weights in half precision; `load` makes them float32 again.
        card: further facts for the file's metadata (data, recipe, numbers, licence), JSON-serialisable.

    Raises:
        UserError: a model that `build` did not make, so that its config is unknown.
        OSError: disk full and the like; what was at ``path`` before is untouched.
    """
    if model.config is None:
        raise UserError("this model has no config; make it with lmf.checkpoint.build to save it")
    metadata = {"lmf": json.dumps({"format": FORMAT, "config": model.config}), "card": json.dumps(card or {})}
    path = Path(path)
    state = {k: (v.half() if half else v).contiguous() for k, v in model.state_dict().items()}
    write_bytes(path, sorted_header(serialize(state, metadata)))


def sorted_header(data: bytes) -> bytes:
    """Return the safetensors file ``data`` with sorted keys in its header, so that equal content has equal bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def list_models() -> dict[str, dict[str, Any]]:
    """The models in the box: what `load` takes by name, and the card of each (data, recipe, numbers, licence)."""
    return {name: read_card(path) for name, path in bundled().items()}


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The ``card`` that `save` was given.

    Raises:
        CheckpointError: not a file written by `save`.
    """
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["card"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not written by lmf.checkpoint.save ({one_line(error)})") from error


def from_authors(spec: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, verbose: bool = True) -> SRModel:
    """A published model from its description ``{name, args}`` and its weights, in evaluation mode.

    With ``verbose`` it prints what was not carried over unchanged.

    Raises:
        CheckpointError: an unknown model or option, or weights that do not fit it.
    """
    try:
        config, state, notes = published.convert(spec, state_dict)
        check_finite(state, spec["name"])
        model = build(config)
        model.load_state_dict(state)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(one_line(error)) from error
    if verbose:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return model.eval()


def build(config: Mapping[str, Any], *, trust: Sequence[str] = ()) -> SRModel:
    """A model from plain ``{"encoder": {"_target_": ..., ...}, "decoder": {...}, "renderer": {...}}``.

    Raises:
        UserError: a class that is neither ours nor trusted, or arguments it does not take.
    """
    parts = {part: _instantiate(config[part], trust) for part in PARTS if config.get(part)}
    for part, kind in (("encoder", Encoder), ("decoder", Decoder)):
        if not isinstance(parts.get(part), kind):
            raise UserError(f"config[{part!r}] must name a subclass of lmf.{part}s.{kind.__name__}")
    try:
        model = SRModel(**parts)
    except ValueError as error:  # parts that do not fit each other
        raise UserError(str(error)) from error
    model.config = json.loads(json.dumps({part: config[part] for part in parts}))
    return model


def _instantiate(config: Mapping[str, Any], trust: Sequence[str]) -> Any:
    options = dict(config)
    target = str(options.pop("_target_", None))
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if module not in ("lmf.encoders", "lmf.decoders", "lmf.renderers") and package not in trust:
        raise UserError(
            f"{target} is not a class of lmf.encoders, lmf.decoders or lmf.renderers; "
            f"if you trust {package or 'it'}, pass trust=[{package!r}]"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"there is no {target}: {error}") from error
    if not isinstance(cls, type):
        raise UserError(f"{target} is not a class")
    try:
        return cls(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{target}: {error}") from error


def find(source: str | os.PathLike[str]) -> Path:
    """The checkpoint file that ``source`` means; a run folder means its best checkpoint, else its last."""
    path = Path(source).expanduser()
    if not path.exists() and str(source) in bundled():
        return bundled()[str(source)]
    if path.is_dir():
        candidates = [path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
        raise CheckpointError(f"{path}: a folder without {' or '.join(str(c.relative_to(path)) for c in candidates)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give {SOURCES}")
    return path


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Config and weights of the file at ``path``, whatever its suffix."""
    if is_safetensors(path) or path.suffix == ".safetensors":
        return _read_safetensors(path)
    checkpoint = unpickle(path)
    if "lmf" in checkpoint and "state_dict" in checkpoint:
        return _config(path, checkpoint["lmf"]), without_wrappers(
            {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
        )
    try:
        spec, weights, found = foreign.unwrap(checkpoint)
        config, state, notes = published.convert(spec, weights)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    for note in found + notes:
        print(f"note: {path.name}: {note}", file=sys.stderr)
    return config, state


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        kind = kind_of(path) or one_line(error)
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({kind})") from error
    try:
        header = json.loads(metadata["lmf"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: no model config inside; write such files with lmf.checkpoint.save") from error
    return _config(path, header), {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _config(path: Path, header: Mapping[str, Any]) -> Mapping[str, Any]:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {header.get('format')!r}, this version reads format {FORMAT}")
    return header["config"]
