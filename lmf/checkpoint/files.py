"""Loads models from run folders, Lightning checkpoints, safetensors and published checkpoints, and saves them.

No file can execute code. Weights are read by safe unpickling or safetensors, and the config in a file can only name
classes of this package and of packages that the caller trusts.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lmf.checkpoint import foreign, published, published_thera, trees
from lmf.checkpoint.building import PARTS, build
from lmf.checkpoint.pickles import CheckpointError, check_finite, is_safetensors, kind_of, unpickle
from lmf.checkpoint.skipping import WithoutRandomWeights
from lmf.checkpoint.translate import check_names, without_wrappers
from lmf.errors import UserError, did_you_mean, one_line
from lmf.io.files import write_bytes
from lmf.model import SRModel
from lmf.weights import bundled

log = logging.getLogger(__name__)

FORMAT = 1
SOURCES = "a run folder, .ckpt, .safetensors, .pth, .pkl, or a name of lmf.list_models()"


def load(source: str | os.PathLike[str], *, trust: Sequence[str] = (), device: str | torch.device = "cpu") -> SRModel:
    """Load a model in evaluation mode.

    Args:
        source: a name from `lmf.list_models`, a run folder, or a file: a ``.ckpt`` of this project, a ``.safetensors``
            written by `save`, or a published model. A published model is stored with its description
            (``{"model": {"name", "args", "sd"}}``), as a state dict whose names and shapes identify the model, or as a
            pickled tree of arrays (Thera). The format is recognised by the content of the file.
        trust: packages other than ``lmf`` whose encoders, decoders and renderers the file may name.
        device: device of the model.

    Raises:
        CheckpointError: if the file does not exist, is damaged, holds no model, or holds weights that are not finite.
    """
    path = find(source)
    config, state = _read(path)
    check_finite(state, path)
    try:
        with WithoutRandomWeights():
            model = build(config, trust=trust)
        model.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    return model.eval().to(device)


def save(
    model: SRModel, path: str | os.PathLike[str], card: Mapping[str, Any] | None = None, half: bool = False
) -> None:
    """Write the weights and the config of a model to a ``.safetensors`` file that `load` can read.

    Args:
        model: a model made by `build` or `load`.
        path: file to write.
        card: facts for the file's metadata (data, recipe, results, licence), JSON-serialisable.
        half: store weights in half precision. `load` converts them back to float32.

    Raises:
        UserError: if ``model`` was not made by `build`, so that its config is unknown.
        OSError: if the file cannot be written. The previous file at ``path`` does not change.
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
    """Return the pretrained models that `load` accepts by name, each with its card and the size of its file.

    Every entry has ``bytes`` and ``parameters``. The others come from the card, and a card may lack them: ``data``
    (what the model was trained on), ``recipe``, ``limits`` (what it is bad at), ``licence``, ``results`` by test set
    and scale (``{"set5_x4": {"psnr": ..., ...}}``), ``costs`` (10^9 multiply-adds by scale), ``version``, ``commit``.
    """
    return {name: size_of(path) | read_card(path) for name, path in bundled().items()}


def size_of(path: Path) -> dict[str, Any]:
    """Return the ``bytes`` of a file written by `save` and the number of ``parameters`` in it, without bounds."""
    with safe_open(path, "pt") as file:
        names = [key for key in file.keys() if not key.endswith((".feat_low", ".feat_high"))]  # noqa: SIM118
        shapes = [file.get_slice(key).get_shape() for key in names]
    return {"bytes": path.stat().st_size, "parameters": sum(math.prod(shape) for shape in shapes)}


def read_card(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the card in a file written by `save`.

    Raises:
        CheckpointError: if `save` did not write the file, or it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {})["card"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not written by lmf.checkpoint.save ({one_line(error)})") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{path}: its card must be a mapping, got {card!r:.40}")
    return card


def from_authors(spec: Mapping[str, Any], state_dict: Mapping[str, Tensor], *, verbose: bool = True) -> SRModel:
    """Build a published model in evaluation mode.

    Args:
        spec: its description ``{"name": ..., "args": {...}}``.
        state_dict: its weights.
        verbose: log what was not translated exactly.

    Raises:
        CheckpointError: if the model or an option is unknown, or the weights do not fit.
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
            log.warning(note)
    return model.eval()


def find(source: str | os.PathLike[str]) -> Path:
    """Return the checkpoint file that ``source`` refers to.

    Args:
        source: the name of a pretrained model, a file, or a run folder, whose best or else last checkpoint is used.

    Raises:
        CheckpointError: if there is no such checkpoint.
    """
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
        similar = did_you_mean(str(source), bundled())
        raise CheckpointError(f"{path}: no such checkpoint; give {SOURCES}{similar}")
    return path


def short_name(source: str | os.PathLike[str]) -> str:
    """Return a short name for what `find` accepts: the last part of a path, without the suffix of a checkpoint."""
    path = Path(source)
    return path.stem if path.suffix in (".ckpt", ".pth", ".safetensors") else path.name or str(source)


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Read config and weights from the file at ``path``, in the format that its content shows."""
    if is_safetensors(path) or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if trees.is_tree(path):
        return _read_tree(path)
    checkpoint = unpickle(path)
    if "lmf" in checkpoint and "state_dict" in checkpoint:
        config, weights = _config(path, checkpoint["lmf"]), checkpoint["state_dict"]
        try:
            check_names(weights)
            return config, without_wrappers({k: v for k, v in weights.items() if k.startswith("model.")})
        except UserError as error:
            raise CheckpointError(f"{path}: {error}") from error
    try:
        spec, weights, unwrap_notes = foreign.unwrap(checkpoint)
        config, state, convert_notes = published.convert(spec, weights)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    for note in unwrap_notes + convert_notes:
        log.warning("%s: %s", path.name, note)
    return config, state


def _read_tree(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Read config and weights from a pickled tree of arrays, in which Thera is published."""
    options, weights = trees.read(path)
    try:
        if {"backbone", "size"} <= options.keys():
            spec = {"name": "thera", "args": {k: options[k] for k in ("backbone", "size")}}
        else:
            spec = published_thera.describe(weights)
        config, state, notes = published.convert(spec, weights)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    for note in notes:
        log.warning("%s: %s", path.name, note)
    return config, state


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Read config and weights from a file written by `save`."""
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
        raise CheckpointError(f"{path}: contains no model config; write such files with lmf.checkpoint.save") from error
    return _config(path, header), {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _config(path: Path, header: Any) -> Mapping[str, Any]:
    """Return the model config in the ``header`` of the file at ``path``, which may hold anything."""
    if not isinstance(header, Mapping):
        raise CheckpointError(f"{path}: the entry 'lmf' must hold format and config, got {header!r:.40}")
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {header.get('format')!r}, this version reads format {FORMAT}")
    config = header.get("config")
    if not isinstance(config, Mapping) or not all(isinstance(config.get(part, {}), Mapping) for part in PARTS):
        raise CheckpointError(f"{path}: config must describe encoder and decoder, got {config!r:.40}")
    return config
