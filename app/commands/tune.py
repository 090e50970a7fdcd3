"""`seggpt tune`: learn a prompt for one set of pictures, on this machine; the network itself does not change."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Final

import torch

from app.commands import words
from app.commands.interrupts import STATUS, Interrupts
from app.main import VERSION
from model.checkpoint import CheckpointError, fingerprint, load, resolve
from model.devices import check_device
from model.tuned_prompt import TunedPrompt, name_of
from model.tuning import Check, Tuning, TuningSettings
from model.tuning_data import TuningDataError, read_folder

_FAILED: Final = 1
_WRONG_USAGE: Final = 2
_DEFAULTS: Final = TuningSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """From which pictures, into which file, and how long."""
    parser.add_argument("--data", type=words.path, required=True, help="folder with images/NAME.jpg and masks/NAME.png")
    parser.add_argument(
        "--out", type=words.path, required=True, metavar="FILE", help="the tuned prompt, a .safetensors"
    )
    parser.add_argument("--checkpoint", default="bundled", help="folder, file, hub id or bundled, the default")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=int, default=_DEFAULTS.steps, help="(default %(default)s)")
    how.add_argument("--minutes", type=float, help="end earlier, after so many")
    how.add_argument(
        "--prompts", type=int, default=1, metavar="K", help="how many pairs to learn (default %(default)s)"
    )
    how.add_argument("--batch", type=int, default=_DEFAULTS.batch, help="pictures of one step (default %(default)s)")
    how.add_argument(
        "--learning-rate", type=float, default=_DEFAULTS.learning_rate, help="levels per step (default %(default)s)"
    )
    how.add_argument(
        "--held-out", type=float, default=_DEFAULTS.held_out, help="share that is not trained on (default %(default)s)"
    )
    how.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    how.add_argument("--threads", type=int, help="torch's threads on a CPU")


def run(options: argparse.Namespace) -> int:
    """0 when the file is written, 1 when nothing could be tuned, 2 for wrong usage, 130 when interrupted.

    After Ctrl-C or SIGTERM the best prompt until then is written all the same, if there is one.
    """
    try:
        if options.out.is_file() and not options.force:
            return _say(f"{options.out} is there; --force replaces it", _WRONG_USAGE)
        settings = TuningSettings(
            prompts=options.prompts,
            steps=options.steps,
            minutes=options.minutes,
            batch=options.batch,
            learning_rate=options.learning_rate,
            held_out=options.held_out,
            seed=options.seed,
        )
        if options.out.is_dir():
            raise ValueError(f"--out {options.out}: is a folder, should be a file")
        if not options.out.absolute().parent.is_dir():
            raise ValueError(f"--out {options.out}: {options.out.absolute().parent} is no folder")
        if options.threads is not None and options.threads < 1:
            raise ValueError(f"--threads: got {options.threads}, must be at least 1")
        check_device(options.device)
    except ValueError as error:
        return _say(error, _WRONG_USAGE)
    except OSError as error:
        return _say(error, _FAILED)
    try:
        with Interrupts():
            return _tune(options, settings)
    except (CheckpointError, TuningDataError, ValueError, OSError, RuntimeError) as error:
        return _say(error, _FAILED)
    except KeyboardInterrupt:
        return _say("interrupted; nothing was written", STATUS)


def _tune(options: argparse.Namespace, settings: TuningSettings) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    checkpoint = resolve(options.checkpoint)
    pictures = read_folder(options.data, checkpoint.config.half_size)
    tuning = Tuning(load(checkpoint, torch.float32, options.device), pictures, settings)
    _line(f"{len(pictures)} pictures, {len(tuning.held_out)} of them held out; looking for the best single example")
    status = 0
    try:
        for check in tuning.run():
            _line(_shown(check, settings))
    except KeyboardInterrupt:
        if math.isnan(tuning.iou_after):
            raise
        status = _say("interrupted; the best until now is written", STATUS)
    prompt = TunedPrompt(
        tuning.images,
        tuning.masks,
        name_of(checkpoint),
        fingerprint(checkpoint),
        tuning.iou_before,
        tuning.iou_after,
    )
    prompt.save(options.out, f"seggpt {VERSION}")
    sys.stdout.write(
        f"{options.out}: IoU on {len(tuning.held_out)} held-out pictures {prompt.iou_after:.3f}, "
        f"of the best single example {prompt.iou_before:.3f}\n"
    )
    return status


def _shown(check: Check, settings: TuningSettings) -> str:
    loss = "" if math.isnan(check.loss) else f"loss {check.loss:.4f}, "
    return (
        f"step {check.step}/{settings.steps}, {check.seconds:.0f} s: {loss}"
        f"held-out IoU {check.iou:.3f}, best {check.best_iou:.3f}"
    )


def _line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _say(what: object, status: int) -> int:
    sys.stderr.write(f"seggpt tune: {what}\n")
    return status
