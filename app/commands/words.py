"""Words of a command line as values, each refused in a line that says what is allowed."""

from __future__ import annotations

import argparse
from pathlib import Path


def path(text: str) -> Path:
    """A path; nothing is none.

    Raises:
        argparse.ArgumentTypeError: it is nothing, as a variable that is not set; it would mean the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("got nothing, should be a path")
    return Path(text)


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, must be a whole number of at least 1")
    return number
