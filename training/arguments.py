"""What the command lines of `python -m training` and `python -m evaluation` understand alike."""

from __future__ import annotations

import argparse
from pathlib import Path

from model.devices import check_device


def present_device(text: str) -> str:
    """For argparse: cpu, cuda or cuda:<number>, if this machine has it."""
    try:
        check_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
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
