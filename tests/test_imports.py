"""Imports point one way, and `import lmf` is light."""

import ast
import json
import subprocess
import sys
from collections import defaultdict

import pytest

from .conftest import ROOT

# Each may use those before it, not those after it. `lmf` has more parts than these; what they use counts as used.
ORDER = ("grid", "kernels", "encoders", "decoders", "renderers", "model", "module", "callbacks", "pipeline")
NEEDS_A_CONFIG = {"pipeline", "tasks", "runs", "sweep"}


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


def reached(part: str) -> set[str]:
    """Parts that ``part`` uses, directly or not."""
    found, waiting = set(), [part]
    while waiting:
        waiting += (new := USES[waiting.pop()] & USES.keys() - found)
        found |= new
    return found


@pytest.mark.parametrize("part", ORDER)
def test_nothing_uses_what_comes_after_it(part):
    assert not reached(part) & set(ORDER[ORDER.index(part) :])


def test_data_and_metrics_stand_beside_the_models():
    assert reached("data") <= {"grid", "image", "codecs"}
    assert reached("metrics") <= {"grid"}


def test_configs_stay_on_top():
    above = {part for part, names in IMPORTED.items() if any(n.startswith(("hydra", "omegaconf")) for n in names)}
    assert above <= NEEDS_A_CONFIG


def test_the_package_is_light():
    code = "import json, sys, lmf, lmf.cost; print(json.dumps([*sys.modules]))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    roots = {name.partition(".")[0] for name in modules}
    assert "torch" in roots
    assert not roots & {"lightning", "hydra", "omegaconf", "wandb", "torchmetrics", "matplotlib", "skimage"}
