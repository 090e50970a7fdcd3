"""`python -m benchmarks`: the measurements behind every claim of speed, one after the other or one alone.

python -m benchmarks                  cpu, profile and service with their defaults: about a quarter of an hour
python -m benchmarks cpu --help       ours beside transformers: time, errors, memory, ensembles
python -m benchmarks profile --help   where one forward's time goes
python -m benchmarks service --help   the service beside the bare model and beside another server
python -m benchmarks stages --help    what a request costs, stage by stage
python -m benchmarks doors --help    what registered prompts and batch requests save
python -m benchmarks tiles --help     small objects in a large picture, with and without tiles
python -m benchmarks tuning --help    what a tuned prompt is worth beside examples
python -m benchmarks document         write the results into docs/performance.md, and draw its pictures
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

ALL = ("cpu", "profile", "service")
ALONE = (*ALL, "stages", "doors", "tiles", "tuning", "document")


def main(arguments: Sequence[str]) -> int:
    """Run the measurement that is named first, or all of them."""
    names: Sequence[str] = ALL if not arguments or arguments[0] == "all" else arguments[:1]
    if arguments and names[0] not in ALONE:
        print(__doc__, file=sys.stdout if arguments[0] in ("-h", "--help") else sys.stderr)
        return 0 if arguments[0] in ("-h", "--help") else 2
    failed = 0
    for name in names:
        print(f"\n== {name} ==", flush=True)
        failed |= import_module(f"benchmarks.{name}").main(arguments[1:] if len(names) == 1 else [])
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
