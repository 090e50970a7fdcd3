"""`seggpt segment`: the same in many pictures.

Outputs are renamed into place when they are whole, then noted in a journal; a run that is interrupted, or killed, is
gone on with by the same command line. Two requests are under way at a time, so that the network works while the
pictures of the next one travel.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from tqdm import tqdm

from app.client import BatchItem, Client, SegGptError, SegmentOptions, UnreachableError
from app.commands import asking, connection, words
from app.commands.destinations import CocoFile, Folder, Job
from app.commands.inputs import InputsError, check_overwrites, find, output_names
from app.commands.interrupts import STATUS, Interrupts
from app.commands.journal import Claims, Journal, JournalError, state

_FAILED: Final = 1
_WRONG_USAGE: Final = 2
_CALLS: Final = 2
_IMAGES_PER_CALL: Final = 32
_SLOW_TO_SHOW_S: Final = 5.0
_LONGEST_START_S: Final = 900
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Result:
    job: Job
    item: BatchItem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to segment, where to, and all that can be said about it."""
    parser.add_argument("images", nargs="+", metavar="picture", help="files, folders (all below them), globs")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=words.path, metavar="FOLDER", help="an output for each picture goes here")
    where.add_argument("--coco", type=words.path, metavar="FILE", help="one COCO file for all of them")
    parser.add_argument(
        "--format",
        choices=["mask", "index", "colour", "overlay", "soft", "json"],
        help="what to write to --out; left out: mask for one class, index for several",
    )
    parser.add_argument("--again", action="store_true", help="do again what an earlier run has finished there")
    parser.add_argument("--force", action="store_true", help="replace what is there and is no output of these pictures")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--images-per-call",
        type=words.positive,
        default=_IMAGES_PER_CALL,
        metavar="N",
        help="%(default)s, unless given",
    )
    asking.add_arguments(parser)
    connection.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """0 when every picture has its output, 1 when some have none, 2 for wrong usage, 130 when interrupted."""
    try:
        connection.check(options)
        asking.check_examples(options)
        if not options.prompt and not options.prompt_image:
            raise ValueError("nothing says what to look for: give --prompt-image and --prompt-mask, or --prompt")
        if options.coco is not None and options.format is not None:
            raise ValueError("--format is for --out")
        destination = CocoFile(options.coco) if options.coco is not None else Folder(options.out, options.format)
        inputs = find(options.images, options.out)
        outputs = output_names(inputs, destination.suffix)
        jobs = [Job(one, output, state(one)) for one, output in zip(inputs, outputs, strict=True)]
        claims = destination.claims(jobs)
        check_overwrites(inputs, (*options.prompt_image, *options.prompt_mask), destination.journal.parent, claims)
    except (ValueError, InputsError) as error:
        return _say(error, _WRONG_USAGE)
    except OSError as error:
        return _say(error, _FAILED)
    with Interrupts() as interrupts:
        run = _Run(options, destination, jobs, claims, interrupts)
        try:
            return run.run()
        except KeyboardInterrupt:
            same = "without --again, the same command" if options.again and run.is_begun else "the same command"
            return _say(f"interrupted; {same} goes on from here", STATUS)
        except (JournalError, ValueError) as error:  # the latter is the client's, of a prompt that cannot be one
            return _say(error, _WRONG_USAGE)
        except (SegGptError, OSError) as error:
            return _say(error, _FAILED)


class _Run:
    def __init__(
        self,
        options: argparse.Namespace,
        destination: Folder | CocoFile,
        jobs: Sequence[Job],
        claims: Claims,
        interrupts: Interrupts,
    ) -> None:
        self._options = options
        self._destination = destination
        self._jobs = jobs
        self._claims = claims
        self._interrupts = interrupts
        #: Whether what was finished before is forgotten, where that was asked for.
        self.is_begun = False

    def run(self) -> int:
        options, destination = self._options, self._destination
        with ExitStack() as stack:
            client = stack.enter_context(connection.connected(options))
            asked = asking.segment_options(options, client)
            if not destination.is_json:
                asked["output"] = options.format or asking.default_output(asked, client)
            question = {**asking.question(asked), "answers": destination.kind, "models": _models(client)}
            journal = stack.enter_context(Journal(destination.journal))
            if not options.force:
                journal.check(self._claims)
            with self._interrupts.undisturbed():
                again = [job.input.key for job in self._jobs] if options.again else ()
                journal.begin(question, self._claims, again=again)
                self.is_begun = True
            left = [job for job in self._jobs if not destination.is_done(job, journal)]
            failed = self._work(client, journal, left, asked)
            with self._interrupts.undisturbed():
                destination.finish(self._jobs, journal)
                with suppress(OSError):  # all is written; the journal is only longer than need be
                    journal.compact()
        if failed:
            return _say(f"{failed} of {len(self._jobs)} pictures have no answer", _FAILED)
        return 0

    def _work(self, client: Client, journal: Journal, left: Sequence[Job], asked: SegmentOptions) -> int:
        """Answer what is left; how many pictures failed."""
        failed = 0
        bar = tqdm(
            total=len(self._jobs),
            initial=len(self._jobs) - len(left),
            unit="picture",
            disable=self._options.quiet,
            mininterval=0.1 if sys.stderr.isatty() else _SLOW_TO_SHOW_S,
        )
        with bar:
            for result in self._results(client, left, asked):
                with self._interrupts.undisturbed():
                    if result.item.error is None:
                        self._destination.keep(result.job, result.item.result(), journal)
                    else:
                        failed += 1
                        bar.write(f"{result.job.input.path}: {_reason(result.item.error)}", file=sys.stderr)
                    bar.update()
        return failed

    def _results(self, client: Client, left: Sequence[Job], asked: SegmentOptions) -> Iterator[_Result]:
        """Of all jobs, in any order; ends with the first error that is not about one picture."""
        jobs = iter(left)
        chunks: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        while chunk := list(islice(jobs, self._options.images_per_call)):
            chunks.put(chunk)
        results: queue.Queue[_Result | Exception | None] = queue.Queue(maxsize=self._options.images_per_call)
        for _ in range(_CALLS):
            chunks.put(None)
            # Daemons: an interrupted run does not wait for answers that nobody takes any more.
            threading.Thread(target=self._ask, args=(client, chunks, results, asked), daemon=True).start()
        working = _CALLS
        while working:
            result = results.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                working -= 1
            else:
                yield result

    def _ask(
        self,
        client: Client,
        chunks: queue.SimpleQueue[list[Job] | None],
        results: queue.Queue[_Result | Exception | None],
        asked: SegmentOptions,
    ) -> None:
        try:
            while (chunk := chunks.get()) is not None:
                paths = [job.input.path for job in chunk]
                for item in client.segment_batch(
                    paths, json=self._destination.is_json, images_per_call=len(chunk), **asked
                ):
                    results.put(_Result(chunk[item.index], item))
        except Exception as error:  # whatever it is, the main thread must hear of it
            results.put(error)
        else:
            results.put(None)


def _models(client: Client) -> Sequence[Any]:
    """What else answers depend on: the same address, or the same folder, may have other weights tomorrow.

    Raises:
        SegGptError: the service cannot be asked, or does not come to know.
    """
    end = time.monotonic() + _LONGEST_START_S
    while time.monotonic() < end:
        models = [
            [model.fingerprint, sorted({worker.dtype for worker in model.workers if worker.dtype is not None})]
            for model in client.models()
        ]
        if models and all(precisions for _, precisions in models):
            return models
        time.sleep(_POLL_S)
    raise UnreachableError(f"the service has not loaded its checkpoint within {_LONGEST_START_S} seconds")


def _reason(error: SegGptError) -> str:
    return getattr(error, "detail", None) or str(error)


def _say(what: object, status: int) -> int:
    sys.stderr.write(f"seggpt segment: {what}\n")
    return status
