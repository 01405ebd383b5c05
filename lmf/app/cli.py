"""The command ``lmf``: subcommands for common jobs, and Hydra overrides for everything else.

The subcommands need only the base install, ``zoom`` also ``lmf[web]``. All other arguments have the form ``KEY=VALUE``
and need ``lmf[train]``.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import lmf
from lmf import io
from lmf.app.arguments import Parser, device, fail, logged_warnings
from lmf.checkpoint import find
from lmf.errors import UserError, explain, needed
from lmf.inference import files, planning, tiling
from lmf.precision import autocast
from lmf.renderers.cmsr import CMSR, tables

log = logging.getLogger(__name__)

HELP = """\
Enlarge pictures by any factor. Train and evaluate the models that do it.

  lmf upscale photo.jpg --scale 3.7      enlarge pictures or folders; see lmf upscale --help
  lmf zoom photo.jpg                     zoom into a picture in the browser; see lmf zoom --help
  lmf models                             list the pretrained models
  lmf KEY=VALUE ...                      run a task with a config:

  lmf experiment=lmf_edsr                train a model
  lmf task=test ckpt_path=RUN            measure it; tasks: fit, test, compare, upscale, calibrate,
                                         benchmark, export, zoom, dashboard
  lmf task=upscale input=photo.jpg scale=3.7
  lmf -m experiment=lmf_edsr seed=0,1,2  run several jobs

  lmf experiment=lmf_edsr --cfg job      show the config of a job without running it
  lmf --hydra-help                       explain the KEY=VALUE form
  lmf --version"""

CAPTION = "GMAC (10^9 multiply-adds, 160x90 pixels)\nand PSNR (dB, by test set) at x4"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    An error that the user or the machine has caused is printed as one line and ends the process with status 1. Ctrl-C
    ends it with status 130.

    Args:
        arguments: command-line arguments; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    first = arguments[0] if arguments else "--help"
    try:
        if first in SUBCOMMANDS:
            with logged_warnings():
                SUBCOMMANDS[first](arguments[1:])
        elif first in ("-h", "--help", "help"):
            print(HELP)
        elif first in ("-V", "--version"):
            print(f"lmf {lmf.__version__}")
        else:
            compose_and_run(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:  # a bug
            raise
        fail(message)


def upscale(arguments: Sequence[str]) -> None:
    """Run ``lmf upscale``, which enlarges files with the same functions as ``task=upscale``.

    Raises:
        UserError: if an option is invalid, two inputs have the same output, or a picture fails.
    """
    options = upscale_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    written = {name: getattr(options, name) for name in ("quality", "subsampling", "max_pixels", "tile")}
    planning.check_request(options.scale, options.size, options.format, **written)
    target = device(options.device)
    context = autocast(options.precision, target)
    jobs = planning.plan(options.inputs, options.output, options.scale, options.size, options.format, options.overwrite)
    cmsr = {name: getattr(options, name) for name in ("precision_db", "budget")}
    renderer = None
    if any(value is not None for value in cmsr.values()):
        renderer = CMSR(tables.beside(find(options.model)), **cmsr)
    model = lmf.load(options.model, trust=options.trust, device=target)
    if renderer is not None:
        renderer.check(model)
        model.renderer = renderer
    written |= {"self_ensemble": options.self_ensemble, "autocast": context}
    failed = files.run(model, jobs, scale=options.scale, size=options.size, **written)
    files.check_failed(failed, len(jobs))


def upscale_parser() -> Parser:
    """Return the argument parser of ``lmf upscale``."""
    parser = Parser(
        prog="lmf upscale",
        description="Enlarge pictures. File names may contain any characters.",
        epilog="`lmf task=upscale` takes these options and more as KEY=VALUE; `lmf task=upscale --cfg job` lists them.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a picture, a folder, or a glob in quotes")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("-s", "--scale", type=float, help="factor for both sides, any positive number, such as 3.7")
    target.add_argument(
        "--size",
        type=size,
        metavar="WIDTHxHEIGHT",
        help="output size in pixels, width first: 1080x1920 is a tall picture",
    )
    parser.add_argument(
        "-o", "--output", default="upscaled", help="a folder, or a file name for one input (default: %(default)s)"
    )
    parser.add_argument(
        "-m",
        "--model",
        default="lm_liif_edsr",
        help="a name from `lmf models`, a run folder or a checkpoint (default: %(default)s)",
    )
    formats = ", ".join(suffix[1:] for suffix in io.WRITABLE)
    parser.add_argument(
        "--format", help=f"{formats} (default: the format of the input, or png if it is not one of these)"
    )
    parser.add_argument(
        "--quality", type=int, default=95, help="quality of jpg, webp and avif, 1 to 100 (default: %(default)s)"
    )
    parser.add_argument(
        "--subsampling",
        help="chroma of jpg and avif: 4:4:4, 4:2:2 or 4:2:0 (default: 4:4:4 from quality 90 on, else 4:2:0)",
    )
    parser.add_argument(
        "--max-pixels", type=int, default=io.MAX_PIXELS, help="refuse larger inputs (default: %(default)s)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing outputs (default: skip their inputs)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        default=tiling.TILE,
        help="side of a tile in input pixels; smaller tiles need less memory (default: %(default)s)",
    )
    parser.add_argument(
        "--self-ensemble",
        action="store_true",
        help="average over the eight flips and rotations: slightly better, eight times as long",
    )
    parser.add_argument("--precision", default="32-true", help="32-true, bf16-mixed or 16-mixed (default: %(default)s)")
    dial = parser.add_mutually_exclusive_group()
    dial.add_argument(
        "--cmsr-precision-db",
        dest="precision_db",
        type=float,
        metavar="DB",
        help="render flat regions more coarsely (CMSR), with this PSNR to dense rendering on each picture, e.g. 50",
    )
    dial.add_argument(
        "--cmsr-budget",
        dest="budget",
        type=float,
        metavar="SHARE",
        help="render flat regions more coarsely (CMSR), at most this share of the pixels, such as 0.3",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: an accelerator if available)")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="allow checkpoints to use classes of this package; may be repeated",
    )
    return parser


def size(text: str) -> tuple[int, int]:
    """Parse ``WIDTHxHEIGHT`` into (height, width).

    Raises:
        argparse.ArgumentTypeError: if ``text`` is not of this form.
    """
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT in pixels, such as 1080x1920, got {text!r}")
    return int(height), int(width)


def zoom(arguments: Sequence[str]) -> None:
    """Run ``lmf zoom``, which serves a page that zooms into pictures.

    Raises:
        MissingExtra: if the extra ``web`` is not installed.
    """
    with needed("web"):
        from lmf.app.zoom import run
    run(arguments)


def models(arguments: Sequence[str]) -> None:
    """Run ``lmf models``, which lists the pretrained models with the facts on their cards."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    parser = Parser(prog="lmf models", description="List the pretrained models.", allow_abbrev=False)
    parser.parse_args(arguments)
    cards = lmf.list_models()
    measured = dict.fromkeys(key for card in cards.values() for key in card.get("results", {}) if key.endswith("_x4"))
    table = Table(box=SIMPLE_HEAD, caption=CAPTION, caption_justify="left", padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for heading in ("parameters", "MB", "GMAC", *(key.removesuffix("_x4") for key in measured)):
        table.add_column(heading, no_wrap=True, justify="right")
    for name, card in cards.items():
        results, gmacs = card.get("results", {}), card.get("costs", {}).get("gmacs", {})
        psnr = [f"{results[key]['psnr']:.2f}" if key in results else "" for key in measured]
        size = f"{card['parameters']:,}", f"{card['bytes'] / 1e6:.1f}"
        table.add_row(name, *size, f"{gmacs['x4']:.1f}" if "x4" in gmacs else "", *psnr)
    console = Console()
    console.print(table)
    for fact, heading in (("data", "trained on"), ("limits", "limits"), ("licence", "licence")):
        for text in dict.fromkeys(card[fact] for card in cards.values() if fact in card):
            names = ", ".join(name for name, card in cards.items() if card.get(fact) == text)
            console.print(f"{heading} ({names}): {text}\n", markup=False, highlight=False)


SUBCOMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"upscale": upscale, "zoom": zoom, "models": models}


def compose_and_run(arguments: Sequence[str]) -> None:
    """Compose a config from ``KEY=VALUE`` arguments with Hydra and run its task.

    Raises:
        MissingExtra: if the extra ``train`` is not installed.
    """
    with needed("train"):
        import hydra

        from lmf.app import overrides, pipeline, sweep
    check_plugins(arguments)
    sys.argv[1:] = overrides.quoted(arguments)
    with pipeline.explained(), sweep.surviving_workers(arguments):
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(pipeline.run)()


EXTRAS = {  # packages of launchers and searches, and the extras that install them
    "launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "sweep"),
    "launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    "launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "sweep"),
    "launcher=ray": ("ray", "ray"),
    "search=optuna": ("optuna", "search"),
}


def check_plugins(arguments: Sequence[str]) -> None:
    """Check that the chosen launcher and search are installed. Hydra would only report an unknown name.

    Raises:
        MissingExtra: if the extra that installs one is missing.
    """
    for argument in arguments:
        if argument in EXTRAS:
            package, extra = EXTRAS[argument]
            with needed(extra):
                importlib.import_module(package)


def conf_folder() -> Path:
    """Return the folder of the configs: inside an installed package, beside the package in a checkout.

    Raises:
        UserError: if neither folder exists.
    """
    package = Path(lmf.__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"{package / 'conf'}: the config folder is missing; reinstall lmf")
