"""Imports point one way, and `import lmf` is light."""

import ast
import importlib
import json
import subprocess
import sys
from collections import defaultdict

import pytest

from .conftest import ROOT

# What each part of the package imports of the others, no more and no less. A loose module counts as a part.
ALLOWED = {
    "errors": set(),
    "grid": set(),
    "memory": set(),
    "precision": {"errors"},
    "io": {"errors"},
    "metrics": {"errors"},
    "weights": set(),
    "kernels": {"errors", "grid", "io"},
    "encoders": {"errors", "grid", "kernels"},
    "decoders": {"encoders", "errors", "grid", "kernels"},
    "renderers": {"decoders", "errors", "grid", "kernels"},
    "model": {"decoders", "encoders", "errors", "grid", "io", "kernels", "renderers"},
    "data": {"errors", "io", "metrics"},
    "checkpoint": {"decoders", "encoders", "errors", "io", "model", "weights"},
    "figures": {"errors", "io"},
    "benchmark": {
        "data", "decoders", "errors", "figures", "grid", "io", "kernels", "memory", "metrics", "model", "precision",
        "renderers",
    },
    "inference": {"decoders", "encoders", "errors", "grid", "io", "kernels", "memory", "model", "renderers"},
    "export": {"checkpoint", "decoders", "errors", "grid", "io", "kernels", "model"},
    "calibration": {"data", "grid", "io", "kernels", "model", "renderers"},
    "comparison": {
        "benchmark", "errors", "grid", "inference", "io", "memory", "metrics", "model", "renderers",
    },
    "training": {
        "benchmark", "checkpoint", "decoders", "encoders", "errors", "grid", "io", "memory", "metrics", "model",
        "renderers",
    },
    "web": {
        "benchmark", "checkpoint", "decoders", "encoders", "errors", "grid", "inference", "io", "model", "renderers",
    },
    "app": {
        "benchmark", "calibration", "checkpoint", "comparison", "data", "decoders", "encoders", "errors", "export",
        "figures", "inference", "io", "kernels", "metrics", "model", "precision", "renderers", "training", "web",
        "weights",
    },
}  # fmt: skip
CONFIGS = {"app"}  # the parts that see Hydra or OmegaConf


def imported() -> dict[str, set[str]]:
    """Modules that each part (file or folder) of the package names in imports, wherever in its files."""
    names = defaultdict(set)
    for path in sorted((ROOT / "lmf").rglob("*.py")):
        part = path.relative_to(ROOT / "lmf").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names[part] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path} imports relatively"
                names[part] |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTED = imported()
USES = {part: {n.split(".")[1] for n in names if n.startswith("lmf.")} - {part} for part, names in IMPORTED.items()}
PARTS = sorted(IMPORTED.keys() - {"__init__", "__main__"})


def test_the_rules_name_every_part():
    assert sorted(ALLOWED) == PARTS
    assert sum(1 for _ in (ROOT / "lmf").glob("*.py")) <= 8, "at most eight modules lie directly in lmf/"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_what_the_rules_say(part):
    assert USES[part] == ALLOWED[part]


def test_no_part_reaches_itself():
    reached = {part: set(uses) for part, uses in ALLOWED.items()}
    for _ in ALLOWED:
        reached = {part: uses.union(*(reached[used] for used in uses)) for part, uses in reached.items()}
    assert not [part for part, uses in reached.items() if part in uses]


def test_configs_stay_on_top():
    above = {part for part, names in IMPORTED.items() if any(n.startswith(("hydra", "omegaconf")) for n in names)}
    assert above <= CONFIGS | {"__main__"}


@pytest.mark.parametrize("name", ["lmf.benchmark", "lmf.calibration"])
def test_packages_export_their_own_names(name):
    package = importlib.import_module(name)
    assert all(getattr(package, export).__module__.startswith(f"{name}.") for export in package.__all__)


def test_the_package_is_light():
    code = "import json, sys, lmf, lmf.benchmark.cost; print(json.dumps([*sys.modules]))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    roots = {name.partition(".")[0] for name in modules}
    assert "torch" in roots
    heavy = {
        "lightning",
        "hydra",
        "omegaconf",
        "wandb",
        "torchmetrics",
        "matplotlib",
        "skimage",
        "starlette",
        "uvicorn",
    }
    assert not roots & heavy
