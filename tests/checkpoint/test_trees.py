"""Tests of the pickled trees in which Thera is published, and of the unpickler that executes nothing."""

import pickle
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import lmf
from lmf import checkpoint
from lmf.checkpoint import CheckpointError, trees
from tests import golden

MODEL = golden.thera()["thera_air"]


class FrozenDict(dict):
    """Pickles like the class of the same name in flax."""

    def __reduce__(self):
        return FrozenDict, (dict(self),)


FrozenDict.__module__ = "flax.core.frozen_dict"


@pytest.fixture(scope="module")
def weights():
    return golden.weights(MODEL.keys, MODEL.seed)


@pytest.fixture(scope="module")
def expected(weights):
    return checkpoint.from_authors(MODEL.spec, weights, verbose=False).state_dict()


def tree(weights, make=dict):
    root = {}
    for key, value in weights.items():
        *folders, leaf = key.split("/")
        place = root
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value.numpy()

    def frozen(node):
        return make({k: frozen(v) if isinstance(v, dict) else v for k, v in node.items()})

    return frozen(root)


def published(weights, make=FrozenDict):
    return {"model": tree(weights, make), "backbone": "edsr-baseline", "size": "air"}


def write(path: Path, content, protocol=4, numpy=2) -> Path:
    with pytest.MonkeyPatch.context() as patch:  # a module of flax, which is there while the file is written
        for name in ("flax", "flax.core", "flax.core.frozen_dict"):
            module = types.ModuleType(name)
            module.FrozenDict = FrozenDict
            patch.setitem(sys.modules, name, module)
        data = pickle.dumps(content, protocol)
    if numpy == 1:  # its modules have other names, which are lines of text in protocol 3
        data = data.replace(b"numpy._core.", b"numpy.core.")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("make", [dict, FrozenDict])
@pytest.mark.parametrize(("protocol", "numpy"), [(3, 1), (3, 2), (4, 2), (5, 2)])
def test_the_published_form(weights, expected, tmp_path, make, protocol, numpy):
    path = write(tmp_path / "model.pkl", published(weights, make), protocol, numpy)
    loaded = lmf.load(path)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in expected.items())
    assert loaded.config["decoder"] == {
        "_target_": "lmf.decoders.Thera",
        "in_channels": 64,
        "tail": "air",
        "waves": 32,
    }


@pytest.mark.parametrize("name", golden.thera())
def test_training_checkpoints_lack_the_description(tmp_path, name):
    g = golden.thera()[name]
    weights = {key: torch.zeros(shape) for key, shape in g.keys}
    model = lmf.load(write(tmp_path / "model.pkl", {"model": tree(weights), "step": 3}))
    encoder, tail = {"air": "EDSR", "rdn": "RDN"}.get(name.split("_")[1], "EDSR"), name.split("_")[-1]
    assert (type(model.encoder).__name__, model.decoder.tail) == (encoder, tail)


@pytest.mark.parametrize(
    "change",
    [lambda a: a.astype(">f4"), lambda a: a.astype(np.float64), lambda a: np.asfortranarray(a)],
    ids=["big-endian", "double", "by-column"],
)
def test_arrays_of_other_layouts(weights, expected, tmp_path, change):
    content = published(weights)
    kernel = content["model"]["params"]["out_conv"]["kernel"]
    content["model"]["params"]["out_conv"]["kernel"] = change(kernel)
    loaded = lmf.load(write(tmp_path / "m", content)).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


class Call:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Call(exec, "import lmf; lmf.executed = True"), "builtins.exec"),
        (Call(eval, "0"), "builtins.eval"),
        (Call(getattr, "a", "upper"), "builtins.getattr"),
        (Path("x"), r"pathlib.*Path"),
        (np.load, r"numpy.*load"),
        (np.random.RandomState(0), r"numpy\.random\..*"),
        (torch.zeros(2), r"torch\._utils\._rebuild_tensor_v2"),
        (np.float32(1), r"numpy\._?core\.multiarray\.scalar"),
        (types.SimpleNamespace(a=1), r"types\.SimpleNamespace"),
        (complex(1, 2), r"builtins\.complex"),
    ],
)
def test_every_other_name_is_refused(weights, tmp_path, value, name):
    path = write(tmp_path / "m.pkl", published(weights) | {"more": value})
    with pytest.raises(CheckpointError, match=rf"m\.pkl: not a checkpoint .*\(it names {name}\)") as error:
        lmf.load(path)
    assert "\n" not in str(error.value)
    assert not hasattr(lmf, "executed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"params": {"k": np.array([object()])}}}, "arrays of 'O8' are not supported"),
        ({"model": {"params": {"k": np.array(["text"])}}}, "arrays of 'U4' are not supported"),
        ({"model": {"params": {"k": np.zeros(2, "f4,i4")}}}, "arrays of 'V8' are not supported"),
        ({"model": {"params": {"k": 3}}}, "params/k must be an array, got 3"),
        ({"model": {"params": {"w": np.zeros(3)}}}, r"weights of an unknown model \(params/w"),
        ({"weights": {}}, "does not hold {'model'"),
        ([1, 2], "does not hold {'model'"),
        ({"model": {}, "backbone": "hat", "size": "air"}, "backbone='hat', size='air': known are"),
        ({"model": {}, "backbone": ["rdn"], "size": {}}, "known are"),
        ({"model": {}, "backbone": "rdn", "size": "air"}, "thera: no hypernet.weight in its weights"),
    ],
)
def test_what_is_not_a_model_in_one_line(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message) as error:
        lmf.load(write(tmp_path / "m.pkl", content))
    assert str(error.value).startswith(f"{tmp_path / 'm.pkl'}: ")
    assert "\n" not in str(error.value)


def test_trees_without_an_end(tmp_path):
    endless = {}
    endless["params"] = endless
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        lmf.load(write(tmp_path / "m.pkl", {"model": endless}))


def test_a_file_cannot_change_how_others_are_read(weights, expected, tmp_path):
    """Instructions of a pickle can set attributes of the classes that it names."""
    good = write(tmp_path / "good.pkl", published(weights))
    for kind in (b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cflax.core.frozen_dict\nFrozenDict\n"):
        poison = b"\x80\x02" + kind + b"N}X\x0c\x00\x00\x00__setstate__Ns\x86b."
        (tmp_path / "bad.pkl").write_bytes(poison)
        with pytest.raises(CheckpointError):
            lmf.load(tmp_path / "bad.pkl")
        loaded = lmf.load(good).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_damaged_files_are_refused(tmp_path):
    """Changed bytes change a value, or raise an error of one line; nothing else comes out."""
    small = {"model": {"params": {"k": np.arange(3.0), "w": {"a": np.ones((2, 3), np.float32)}}}, "size": "air"}
    rng, messages = random.Random(0), []
    for protocol in (3, 4, 5):
        whole = pickle.dumps(small, protocol)
        for _ in range(400):
            data = bytearray(whole)
            if rng.random() < 0.2:
                del data[rng.randrange(2, len(data)) :]
            else:
                for _ in range(rng.randint(1, 3)):
                    data[rng.randrange(2, len(data))] = rng.randrange(256)
            path = tmp_path / "m.pkl"
            path.write_bytes(data)
            try:
                _, arrays = trees.read(path)
            except CheckpointError as error:
                messages.append(str(error))
            else:
                assert all(isinstance(value, torch.Tensor) for value in arrays.values())
    assert len(messages) > 600
    assert not [message for message in messages if "\n" in message]
