"""`python -m evaluation`: how well a checkpoint does on what it was not trained on, as a Markdown table."""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.held_out import HEADING, held_out_sets, judge
from model.checkpoint import BUNDLED, load, resolve


def main() -> None:
    """Read the command line, score, print."""
    parser = argparse.ArgumentParser(prog="python -m evaluation", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the pictures")
    parser.add_argument("--checkpoint", default=str(BUNDLED), help="hub id, folder or file (default: the bundled one)")
    parser.add_argument("--made", type=int, default=300, help="scenes per made set (default %(default)s)")
    given = parser.parse_args()
    network = load(resolve(given.checkpoint))
    print(HEADING)
    for name, pairs in held_out_sets(given.data, given.made).items():
        print(judge(network, name, pairs), flush=True)


if __name__ == "__main__":
    main()
