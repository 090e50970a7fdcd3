"""The command line of `python -m evaluation`: how well a checkpoint does on what it was not trained on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import torch

from app.upsampling import Upsampling
from evaluation.datasets.coco20i import load_coco20i
from evaluation.datasets.folder import load_folder
from evaluation.datasets.folds import FOLDS
from evaluation.datasets.fss1000 import load_fss1000
from evaluation.datasets.pascal5i import load_pascal5i
from evaluation.judge import Result, judge, lines_of
from evaluation.network import EMBEDDING_TYPES, Network, load_network
from evaluation.questions import Subset
from evaluation.report import curves_of, report
from evaluation.showcase import choose
from evaluation.tables import markdown
from model.checkpoint import Checkpoint, resolve
from model.inference import PRECISIONS
from training.arguments import at_least_one, present_device

HELD_OUT = "held-out"


def _fss1000(given: argparse.Namespace) -> list[Subset]:
    return load_fss1000(given.data, **_drawing(given), split=given.split, skip_unusable=given.skip_unusable)


def _folder(given: argparse.Namespace) -> list[Subset]:
    return load_folder(given.data, **_drawing(given), skip_unusable=given.skip_unusable)


def _coco20i(given: argparse.Namespace) -> list[Subset]:
    return load_coco20i(given.data, **_drawing(given), folds=given.fold, lists=given.lists)


def _pascal5i(given: argparse.Namespace) -> list[Subset]:
    return load_pascal5i(given.data, **_drawing(given), folds=given.fold, lists=given.lists)


def _held_out(given: argparse.Namespace) -> list[Subset]:
    from evaluation.held_out import held_out_sets  # noqa: PLC0415  # the other sets need no training code

    return held_out_sets(given.data, given.made)


def _drawing(given: argparse.Namespace) -> dict[str, int]:
    return {"examples": max(given.examples), "episodes": given.episodes, "seed": given.seed}


_SETS: dict[str, tuple[str, Callable[[argparse.Namespace], list[Subset]]]] = {
    HELD_OUT: ("held-out emoji and photos of the training pictures, and real photos (the default)", _held_out),
    "fss1000": ("FSS-1000, 240 test categories", _fss1000),
    "coco20i": ("COCO-20i, four folds of 20 categories", _coco20i),
    "pascal5i": ("PASCAL-5i, four folds of 5 categories", _pascal5i),
    "folder": ("a plain folder: <category>/images/<name>.jpg and <category>/masks/<name>.png", _folder),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, score, print a Markdown table, write what was asked for."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, HELD_OUT)
    parser = _parser()
    given = parser.parse_args(words)
    if given.curve is not None and len(given.examples) < 2:
        parser.error("--curve needs several numbers of examples, such as --examples 1,2,4,8")
    for path in filter(None, (given.report, given.curve)):
        _check_writable(parser, path)
    try:
        checkpoint = resolve(given.checkpoint)
        subsets = _SETS[given.set][1](given)
        network = load_network(checkpoint, given.dtype, given.device, given.embedding_type, given.upsampling)
        results = [judge(network, subset, examples) for examples in given.examples for subset in subsets]
        _show(given, checkpoint, network, results)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _check_writable(parser: argparse.ArgumentParser, path: Path) -> None:
    """Before the evaluation, which takes long."""
    is_new = not os.path.lexists(path)  # a link to nowhere is there
    try:
        path.open("a").close()
    except OSError as error:
        parser.error(f"cannot write {path}: {error.strerror}")
    if is_new:
        path.unlink()


def _show(given: argparse.Namespace, checkpoint: Checkpoint, network: Network, results: list[Result]) -> None:
    lines = lines_of(results)
    print(markdown(lines))
    if given.curve is not None:
        # The last is the mean of the folds, where there are any.
        given.curve.write_text(list(curves_of(lines, "miou").values())[-1], encoding="utf-8")
    if given.report is not None:
        shown = [result for result in results if result.examples == given.examples[0]]
        page = report(_title(given, checkpoint), _facts(given, checkpoint), results, lines, choose(shown, network))
        given.report.write_text(page, encoding="utf-8")


def _title(given: argparse.Namespace, checkpoint: Checkpoint) -> str:
    name = given.data.resolve().name if given.set == "folder" else _SETS[given.set][0].split(",")[0]
    return f"How well {Path(checkpoint.source).name} does on {name.removesuffix(' (the default)')}"


def _facts(given: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, str]:
    height, width = checkpoint.config.half_size
    # A page may be passed on: the name of a folder, not where it lies.
    name = checkpoint.source
    source = f"{name} at {checkpoint.revision}" if checkpoint.revision else Path(name).name
    return {
        "checkpoint": source,
        "parameters": f"{checkpoint.parameters:,}",
        "pictures seen at": f"{height} x {width}",
        "set": given.set,
        "examples": ", ".join(map(str, given.examples)),
        "seed": str(given.seed),
        "computed in": f"{given.dtype} on {given.device}",
        "embedding type": given.embedding_type,
        "enlarged by": given.upsampling,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    commands = parser.add_subparsers(dest="set", required=True)
    for name, (about, _) in _SETS.items():
        own = commands.add_parser(
            name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        _add_common(own, is_data_needed=name != HELD_OUT)
        if name == HELD_OUT:
            own.set_defaults(examples=[1])
            own.add_argument("--made", type=at_least_one, default=300, help="scenes per made set")
            continue
        own.add_argument(
            "--examples",
            "--shots",
            type=_numbers,
            default=[1],
            metavar="N[,N...]",
            help="examples per question, as one feature ensemble; several numbers give a curve",
        )
        own.add_argument("--episodes", type=at_least_one, help="questions; per fold 1000, else each picture once")
        if name in ("fss1000", "folder"):
            own.add_argument("--skip-unusable", action="store_true", help="leave out pictures that do not fit")
        if name == "fss1000":
            own.add_argument("--split", type=Path, help="file with one category per line; else the official 240")
        if name in ("coco20i", "pascal5i"):
            own.add_argument("--fold", type=_folds, default=list(FOLDS), metavar="0|1|2|3|all", help="which folds")
            own.add_argument("--lists", type=Path, help="folder with fold0.txt to fold3.txt, <picture>__<class> a line")
    return parser


def _add_common(own: argparse.ArgumentParser, *, is_data_needed: bool) -> None:
    if is_data_needed:
        own.add_argument("--data", type=Path, required=True, help="the tree of pictures")
    else:
        own.add_argument("--data", type=Path, default=Path("../shared/data"), help="the tree of pictures")
    own.add_argument("--checkpoint", default="bundled", help="folder, file, hub id or bundled")
    own.add_argument("--seed", type=int, default=0, help="of the choice of episodes and examples")
    own.add_argument("--dtype", choices=PRECISIONS, default="float32", help="precision of products")
    own.add_argument(
        "--device",
        type=present_device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:NUMBER",
    )
    own.add_argument("--embedding-type", choices=EMBEDDING_TYPES, default="instance", help="the network's type token")
    own.add_argument("--upsampling", choices=get_args(Upsampling), default="nearest", help="how answers are enlarged")
    own.add_argument("--report", type=Path, help="write an HTML page with plots and pictures")
    own.add_argument("--curve", type=Path, help="write mIoU over the number of examples as SVG")


def _numbers(text: str) -> list[int]:
    numbers = [at_least_one(one) for one in text.split(",")]
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"got {text!r}; each number may come once")
    return sorted(numbers)


def _folds(text: str) -> list[int]:
    if text == "all":
        return list(FOLDS)
    if text not in map(str, FOLDS):
        raise argparse.ArgumentTypeError(f"got {text!r}; it must be 0, 1, 2, 3 or all")
    return [int(text)]
