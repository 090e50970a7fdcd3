"""`python -m training.export`: a snapshot's averaged weights -> a checkpoint folder with checksums."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from model import checkpoint
from training.initialise import resized
from training.snapshot import Snapshot

CHECKSUMS = "SHA256SUMS"


def export(snapshot: Snapshot, folder: Path, size: int | None = None, dtype: torch.dtype = torch.float16) -> None:
    """Write config.json, preprocessor_config.json, model.safetensors and SHA256SUMS.

    Args:
        snapshot: of a training run.
        folder: made if it is not there; a model card (README.md) in it is kept.
        size: side of a half in pixels, if another than the snapshot's.
        dtype: precision on disk.
    """
    network = snapshot.network()
    if size is not None and (size, size) != network.config.half_size:
        network = resized(network, replace(network.config, image_size=(2 * size, size))).eval()
    checkpoint.save(network, folder, dtype)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines))


def main() -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument("snapshot", type=Path, help="snapshot.pt of a run")
    parser.add_argument("--out", type=Path, default=checkpoint.BUNDLED, help="folder (default: the bundled checkpoint)")
    parser.add_argument("--size", type=int, help="side of a half in pixels (default: the snapshot's)")
    given = parser.parse_args()
    snapshot = Snapshot.load(given.snapshot)
    export(snapshot, given.out, given.size)
    print(f"{given.out}: {snapshot.pairs:,} pairs, {snapshot.seconds / 60:.0f} minutes of training")


if __name__ == "__main__":
    main()
