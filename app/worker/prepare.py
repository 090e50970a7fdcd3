"""`python -m app.worker.prepare`: find the checkpoint and the devices, say so in one JSON line, and end.

A process of its own, so that a download can be interrupted at any moment and the HTTP process needs no torch. Progress
shows on stderr. The hub's token comes in `HF_TOKEN`, never on the command line, which every user of a machine can read.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from app.worker.devices import NoDeviceError, share_out
from app.worker.messages import LoadFailed, Prepared, encode
from model.checkpoint import CheckpointError, fingerprint, resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Print `Prepared`, or `LoadFailed` with exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m app.worker.prepare")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--revision")
    parser.add_argument("--cache-dir")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--devices", required=True, help="auto, cpu, cuda or a list such as cuda:0,cuda:1")
    parser.add_argument("--threads", type=int, help="torch threads of each worker")
    options = parser.parse_args(arguments)
    try:
        checkpoint = resolve(
            options.checkpoint,
            revision=options.revision,
            cache_dir=options.cache_dir,
            local_files_only=options.offline,
        )
        devices, threads = share_out(options.devices, options.threads, checkpoint.parameters)
        print_of_weights = fingerprint(checkpoint)
    except (CheckpointError, NoDeviceError) as error:
        _say(LoadFailed(str(error)))
        return 2
    _say(
        Prepared(
            checkpoint=checkpoint.to_dict(),
            canvas_size=checkpoint.config.image_size,
            cell_size=checkpoint.config.half_size,
            patch_size=checkpoint.config.patch_size,
            devices=devices,
            threads=threads,
            fingerprint=print_of_weights,
        )
    )
    return 0


def _say(message: Prepared | LoadFailed) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    # The system's own way to end: at once, and without a traceback. What has been downloaded stays.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.exit(main())
