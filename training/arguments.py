"""What the command lines of `python -m training` and `python -m evaluation` understand alike."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from app.settings import BUNDLED_CHECKPOINT
from model.checkpoint import BUNDLED, Checkpoint, resolve


def find_checkpoint(source: str) -> Checkpoint:
    """The bundled checkpoint by its name, or any other as `model.checkpoint.resolve` finds it.

    Raises:
        CheckpointError: there is none.
    """
    return resolve(BUNDLED if source == BUNDLED_CHECKPOINT else source)


def present_device(text: str) -> str:
    """For argparse: cpu, cuda or cuda:<number>, if this machine has it."""
    cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    there = ["cpu", *(["cuda", *cards] if cards else [])]
    if text not in there:
        raise argparse.ArgumentTypeError(f"got {text!r}; this machine has {', '.join(there)}")
    return text


def existing_folder(text: str) -> Path:
    """For argparse: a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def at_least_one(text: str) -> int:
    """For argparse: a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; it must be a whole number of at least 1")
    return int(text)
