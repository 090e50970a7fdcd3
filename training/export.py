"""`python -m training.export`: the averaged weights of one run, or the mean of several, -> a checkpoint folder."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model import SegGptImageProcessor, checkpoint
from model.seggpt import SegGptForImageSegmentation
from training.initialise import resized
from training.snapshot import Snapshot

CHECKSUMS = "SHA256SUMS"


def mean(networks: Sequence[SegGptForImageSegmentation]) -> SegGptForImageSegmentation:
    """A network whose weights are the mean of theirs, float32, in eval mode.

    It pays for runs of which each went on where another had ended: the mean of their weights then behaves like a longer
    moving average. Runs that began apart have no sensible mean.

    Raises:
        ValueError: they differ in their configuration.
    """
    first, *others = networks
    for other in others:
        if other.config != first.config:
            raise ValueError(f"no mean of {first.config} and {other.config}")
    states = [network.state_dict() for network in networks]
    averaged = SegGptForImageSegmentation(first.config)
    averaged.load_state_dict(
        {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
    )
    return averaged.eval()


def export(
    network: SegGptForImageSegmentation, folder: Path, size: int | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write config.json, preprocessor_config.json, model.safetensors and SHA256SUMS.

    Args:
        network: such as a snapshot's.
        folder: made if it is not there; a model card (README.md) in it is kept.
        size: side of a half in pixels, if another than the network's.
        dtype: precision on disk.
    """
    if size is not None and (size, size) != network.config.half_size:
        network = resized(network, replace(network.config, image_size=(2 * size, size))).eval()
    checkpoint.save(network, folder, dtype)
    SegGptImageProcessor(network.config.half_size).save_pretrained(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / CHECKSUMS).write_text("".join(lines))


def read(source: str) -> SegGptForImageSegmentation:
    """The averaged network of a run's snapshot.pt, or any checkpoint's, in float32."""
    if Path(source).suffix == ".pt":
        return Snapshot.load(Path(source)).network()
    return checkpoint.load(checkpoint.resolve(source), torch.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and export."""
    parser = argparse.ArgumentParser(prog="python -m training.export", description=__doc__)
    parser.add_argument(
        "source", nargs="+", help="snapshot.pt of a run, or a checkpoint; of several the mean of their weights"
    )
    parser.add_argument("--out", type=Path, default=checkpoint.BUNDLED, help="folder (default: the bundled checkpoint)")
    parser.add_argument("--size", type=int, help="side of a half in pixels (default: the source's)")
    given = parser.parse_args(arguments)
    try:
        network = mean([read(source) for source in given.source])
        export(network, given.out, given.size)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"{given.out}: {' and '.join(given.source)}, {given.size or network.config.half_size[1]} pixels")


if __name__ == "__main__":
    main()
