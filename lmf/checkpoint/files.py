"""Models from files: run folders, Lightning checkpoints, safetensors, and the authors' own checkpoints.

Weights are read with safe unpickling or safetensors, and a config found in a file can only name classes of
this package or of packages the caller trusts: nothing in a data file is ever executed.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmf.checkpoint import published
from lmf.decoders.base import Decoder
from lmf.encoders.base import Encoder
from lmf.errors import UserError, one_line
from lmf.io.files import replacing
from lmf.model import SRModel
from lmf.weights import bundled

FORMAT = 1
PARTS = ("encoder", "decoder", "renderer")
SOURCES = "a run folder, .ckpt, .safetensors, .pth, or a name of lmf.list_models()"


class CheckpointError(UserError):
    """A file that is not a model we can read; the message says what was found and what is wanted."""


def load(source: str | os.PathLike[str], *, trust: Sequence[str] = (), device: str | torch.device = "cpu") -> SRModel:
    """A model in evaluation mode from whatever holds one.

    Args:
        source: a name of `lmf.list_models`, a run folder, a ``.ckpt`` of this project, a ``.safetensors`` written by
            `save`, or a ``.pth`` / ``.pt`` of the authors (``{"model": {"name", "args", "sd"}}``).
        trust: packages beside ``lmf`` whose encoders, decoders and renderers the file may name.
        device: where to put it.

    Raises:
        CheckpointError: no such file, damaged, or not a model.
    """
    path = find(source)
    reader = {".safetensors": _read_safetensors, ".ckpt": _read_lightning, ".pth": _read_authors, ".pt": _read_authors}
    if path.suffix not in reader:
        raise CheckpointError(f"{path}: unknown kind of checkpoint {path.suffix!r}; known: {', '.join(reader)}")
    config, state = reader[path.suffix](path)
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
        ValueError: a model that `build` did not make, so that its config is unknown.
    """
    if model.config is None:
        raise ValueError("this model has no config; make it with lmf.checkpoint.build to save it")
    metadata = {"lmf": json.dumps({"format": FORMAT, "config": model.config}), "card": json.dumps(card or {})}
    path = Path(path)
    state = {k: (v.half() if half else v).contiguous() for k, v in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # of a new file; safetensors makes its own readable by the owner alone
        save_file(state, temporary, metadata)
        temporary.chmod(mode)


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
        ValueError: a class that is neither ours nor trusted, or arguments it does not take.
    """
    parts = {part: _instantiate(config[part], trust) for part in PARTS if config.get(part)}
    for part, kind in (("encoder", Encoder), ("decoder", Decoder)):
        if not isinstance(parts.get(part), kind):
            raise ValueError(f"config[{part!r}] must name a subclass of lmf.{part}s.{kind.__name__}")
    model = SRModel(**parts)
    model.config = json.loads(json.dumps({part: config[part] for part in parts}))
    return model


def _instantiate(config: Mapping[str, Any], trust: Sequence[str]) -> Any:
    options = dict(config)
    target = str(options.pop("_target_", None))
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if module not in ("lmf.encoders", "lmf.decoders", "lmf.renderers") and package not in trust:
        raise ValueError(
            f"{target} is not a class of lmf.encoders, lmf.decoders or lmf.renderers; "
            f"if you trust {package or 'it'}, pass trust=[{package!r}]"
        )
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {target}: {error}") from error
    if not isinstance(cls, type):
        raise ValueError(f"{target} is not a class")
    try:
        return cls(**options)
    except TypeError as error:
        raise ValueError(f"{target}: {error}") from error


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


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({one_line(error)})") from error
    try:
        header = json.loads(metadata["lmf"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: no model config inside; write such files with lmf.checkpoint.save") from error
    return _config(path, header), {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _read_lightning(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    checkpoint = unpickle(path)
    if "lmf" not in checkpoint or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path}: a checkpoint of another project; wanted one written by run.py task=fit")
    prefix = "model."
    state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return _config(path, checkpoint["lmf"]), state


def _read_authors(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    checkpoint = unpickle(path)
    model = checkpoint.get("model")
    if not isinstance(model, dict) or not {"name", "args", "sd"} <= model.keys():
        raise CheckpointError(f"{path}: not a checkpoint of the authors; wanted {{'model': {{'name', 'args', 'sd'}}}}")
    try:
        config, state, notes = published.convert(model, model["sd"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    for note in notes:
        print(f"note: {path.name}: {note}", file=sys.stderr)
    return config, state


def _config(path: Path, header: Mapping[str, Any]) -> Mapping[str, Any]:
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {header.get('format')!r}, this version reads format {FORMAT}")
    return header["config"]


def unpickle(path: Path) -> dict[str, Any]:
    """The dict in a ``torch.save`` file, by safe unpickling on the CPU.

    Raises:
        CheckpointError: unreadable, unsafe, or not a dict.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: not a checkpoint that safe unpickling accepts ({one_line(error)})") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({one_line(error)})") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint
