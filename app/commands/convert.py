"""`seggpt convert`: a checkpoint, wherever it lies and however it is laid out, as a folder of safetensors."""

from __future__ import annotations

import argparse
import sys
from typing import Final

import torch

from app.commands import words
from model import SegGptImageProcessor
from model.checkpoint import CheckpointError, load, resolve, save

_FAILED: Final = 1
_WRONG_USAGE: Final = 2
_PRECISIONS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """From where, to where."""
    parser.add_argument("source", help="original .pth, .safetensors, folder or hub id")
    parser.add_argument("folder", type=words.path, help="made if it is not there")
    parser.add_argument("--dtype", choices=list(_PRECISIONS), help="precision on disk; left out: the source's")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is there")


def run(options: argparse.Namespace) -> int:
    """0 when the folder holds a checkpoint that was read again, 1 when it cannot, 2 for wrong usage."""
    try:
        if not options.force and (options.folder / "model.safetensors").exists():
            return _say(f"{options.folder} has a checkpoint; --force replaces it", _WRONG_USAGE)
        source = resolve(options.source, revision=options.revision)
        save(load(source, _PRECISIONS.get(options.dtype)), options.folder)
        SegGptImageProcessor.from_pretrained(options.source, revision=options.revision).save_pretrained(options.folder)
        written = resolve(options.folder)
    except (CheckpointError, OSError) as error:
        return _say(error, _FAILED)
    size = written.weights.stat().st_size
    sys.stdout.write(f"{written.weights}: {written.parameters} parameters, {size} bytes\n")
    return 0


def _say(what: object, status: int) -> int:
    sys.stderr.write(f"seggpt convert: {what}\n")
    return status
