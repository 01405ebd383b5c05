"""Fills the folder of the browser page: python docs/browser/build.py [FOLDER]

It writes what the page loads and the repository does not hold: the runtime, which npm installs (onnxruntime-web, MIT
licence, see NOTICE.txt), the exported model, and an example picture. Without npm the page says that its runtime is
missing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from skimage import data

import lmf
from lmf.export import save

HERE = Path(__file__).resolve().parent
PAGE = ("enlarge.html", "enlarge.mjs", "worker.mjs", "NOTICE.txt")
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MODEL = "lm_liif_edsr"


def main(folder: str = str(HERE)) -> None:
    target = Path(folder)
    (target / "files").mkdir(parents=True, exist_ok=True)
    if target.resolve() != HERE:
        for name in PAGE:
            shutil.copy(HERE / name, target)
    save(lmf.load(MODEL), target / "files" / "model.onnx", lmf.list_models()[MODEL], split=True, half=True)
    photo = Image.fromarray(data.astronaut()).crop((150, 30, 310, 150))
    photo.resize((80, 60), Image.Resampling.BICUBIC).save(target / "files" / "example.png")
    if npm := shutil.which("npm"):
        install(npm, target / "files")
    else:
        print("npm is not installed: the browser page is left without its runtime", file=sys.stderr)


def install(npm: str, target: Path) -> None:
    """Copy the runtime to ``target``, in the version of package-lock.json."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, temporary)
        subprocess.run(
            [npm, "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=temporary, check=True
        )
        for name in RUNTIME:
            shutil.copy(Path(temporary, "node_modules", "onnxruntime-web", "dist", name), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
