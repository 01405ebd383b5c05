"""The command ``lmf``: subcommands for everyday use, and Hydra's overrides for everything.

The subcommands need only the base install. Everything else is ``KEY=VALUE``, composed from the configs by Hydra.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lmf
from lmf.errors import UserError, needed, one_line

log = logging.getLogger(__name__)

HELP = """\
Enlarges pictures by any factor, and trains and measures the models that do it.

  lmf upscale photo.jpg --scale 3.7      enlarge a picture, a folder or several; lmf upscale --help
  lmf models                             the pretrained models
  lmf KEY=VALUE ...                      everything else, by configs:

  lmf experiment=lmf_edsr                train a model
  lmf task=test ckpt_path=RUN            measure it; tasks: fit, test, upscale, calibrate, benchmark, export
  lmf task=upscale input=photo.jpg scale=3.7
  lmf -m experiment=lmf_edsr seed=0,1,2  several jobs

  lmf experiment=lmf_edsr --cfg job      show the config of a job without running it
  lmf --hydra-help                       the options of the form KEY=VALUE
  lmf --version"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with ``arguments``, by default those of the process; exits with 1 at the user's errors."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    first = arguments[0] if arguments else "--help"
    try:
        if first in SUBCOMMANDS:
            SUBCOMMANDS[first](arguments[1:])
        elif first in ("-h", "--help", "help"):
            print(HELP)
        elif first in ("-V", "--version"):
            print(f"lmf {lmf.__version__}")
        else:
            compose_and_run(arguments)
    except UserError as error:
        fail(one_line(error, limit=1000))
    except KeyboardInterrupt:
        sys.exit(130)


def fail(message: str, status: int = 1) -> NoReturn:
    print(f"ERROR: {message}", file=sys.stderr)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message} ({self.prog} --help)", status=2)


def upscale(arguments: Sequence[str]) -> None:
    """``lmf upscale``: enlarges files with the same functions as ``task=upscale``."""
    options = upscale_parser().parse_args(arguments)
    from lmf.inference import files  # not before --help

    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    files.check_request(options.scale, options.size, options.format, options.quality)
    if options.tile < 1:
        raise UserError(f"--tile must be at least 1 pixel, got {options.tile}")
    jobs: dict[Path, Path] = {}
    for source in options.inputs:
        for file, destination in files.plan(
            source, options.output, options.scale, options.size, options.format, options.overwrite
        ):
            if jobs.setdefault(destination, file) != file:
                raise UserError(f"{jobs[destination]} and {file} would both become {destination}; rename one")
    model = lmf.load(options.model, trust=options.trust, device=device(options.device))
    pairs = [(file, destination) for destination, file in jobs.items()]
    failed = files.run(model, pairs, scale=options.scale, size=options.size, quality=options.quality, tile=options.tile)
    if failed:
        raise UserError(f"{failed} of {len(pairs)} pictures failed; each is named above")


def upscale_parser() -> Parser:
    parser = Parser(
        prog="lmf upscale",
        description="Enlarges pictures. Names are taken as they are, whatever characters they hold.",
        allow_abbrev=False,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a picture, a folder, or a glob in quotes")
    how_much = parser.add_mutually_exclusive_group(required=True)
    how_much.add_argument("-s", "--scale", type=float, help="factor on both sides: any positive number, such as 3.7")
    how_much.add_argument(
        "--size",
        type=size,
        metavar="WIDTHxHEIGHT",
        help="of the output in pixels, width first as for screens: 1080x1920 is a tall picture",
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
    parser.add_argument("--format", help="png, jpg, webp or tif (default: that of the input)")
    parser.add_argument("--quality", type=int, default=95, help="of jpg and webp, 1 to 100 (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist; they are kept otherwise")
    parser.add_argument(
        "--tile",
        type=int,
        default=768,
        help="side of what is computed at once, in input pixels; smaller needs less memory (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: an accelerator if there is one)")
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="a package whose classes a checkpoint may name"
    )
    return parser


def size(text: str) -> tuple[int, int]:
    """(height, width) from ``WIDTHxHEIGHT``."""
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT in pixels, such as 1080x1920, got {text!r}")
    return int(height), int(width)


def device(name: str | None) -> torch.device:
    """The device called ``name``; without a name an accelerator if there is one."""
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {one_line(error)}") from error


def models(arguments: Sequence[str]) -> None:
    """``lmf models``: the pretrained models and what their cards say."""
    parser = Parser(prog="lmf models", description="Lists the pretrained models.", allow_abbrev=False)
    parser.parse_args(arguments)
    cards = lmf.list_models()
    measured = dict.fromkeys(key for card in cards.values() for key in card.get("results", {}) if key.endswith("_x4"))
    table = Table(box=SIMPLE_HEAD, caption="of test sets: PSNR in dB at x4", caption_justify="left")
    for heading in ("model", "encoder", "decoder", "parameters", *(key.removesuffix("_x4") for key in measured)):
        table.add_column(heading, no_wrap=True)
    for name, card in cards.items():
        model, results = lmf.load(name), card.get("results", {})
        parameters = f"{sum(p.numel() for p in model.parameters()):,}"
        psnr = [f"{results[key]['psnr']:.2f}" if key in results else "" for key in measured]
        table.add_row(name, type(model.encoder).__name__, type(model.decoder).__name__, parameters, *psnr)
    console = Console()
    console.print(table)
    for fact in ("data", "licence"):
        for text in dict.fromkeys(card[fact] for card in cards.values() if fact in card):
            names = ", ".join(name for name, card in cards.items() if card.get(fact) == text)
            console.print(f"{fact} of {names}: {text}\n", markup=False, highlight=False)


SUBCOMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"upscale": upscale, "models": models}


def compose_and_run(arguments: Sequence[str]) -> None:
    """The form ``KEY=VALUE``: Hydra composes the config, `lmf.app.pipeline` runs it."""
    with needed("train"):
        import hydra

        from lmf.app import overrides, pipeline, sweep
    check_launcher(arguments)
    sys.argv[1:] = overrides.quoted(arguments)
    with pipeline.explained(), sweep.surviving_workers(arguments):
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")(pipeline.run)()


def check_launcher(arguments: Sequence[str]) -> None:
    """Says what to install for a launcher that is not there; Hydra would say only that it does not know its name."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "launcher" and value.partition("_")[0] in ("joblib", "submitit"):
            with needed("sweep"):
                importlib.import_module(f"hydra_plugins.hydra_{value.partition('_')[0]}_launcher")


def conf_folder() -> Path:
    """The folder of the configs: in the package where it is installed, beside it in a checkout.

    Raises:
        UserError: neither is there.
    """
    package = Path(lmf.__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"{package / 'conf'}: the configs are missing; install lmf again")
