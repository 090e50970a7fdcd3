"""`seggpt segment`: the same in many pictures.

Outputs are renamed into place when they are whole, then noted in a journal; a run that is interrupted, or killed, is
gone on with by the same command line. Two requests are under way at a time, so that the network works while the
pictures of the next one travel.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Final

from tqdm import tqdm

from app.client import BatchItem, Client, Png, SegGptError, Segmentation, SegmentOptions
from app.commands import asking, coco, connection
from app.commands.inputs import Input, InputsError, check_overwrites, find, output_names
from app.commands.interrupts import STATUS, Interrupts
from app.commands.journal import Journal, JournalError, state, write_whole

_FAILED: Final = 1
_WRONG_USAGE: Final = 2
_CALLS: Final = 2
_IMAGES_PER_CALL: Final = 32
_JOURNAL: Final = "seggpt-journal.jsonl"
_SLOW_TO_SHOW_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Job:
    """One picture, its output, and what told at the start that it is still the same."""

    input: Input
    output: PurePosixPath
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Result:
    job: _Job
    item: BatchItem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to segment, where to, and all that can be said about it."""
    parser.add_argument("images", nargs="+", metavar="picture", help="files, folders (all below them), globs")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, metavar="FOLDER", help="an output for each picture goes here")
    where.add_argument("--coco", type=Path, metavar="FILE", help="one COCO file for all of them")
    parser.add_argument(
        "--format",
        choices=["mask", "index", "colour", "overlay", "soft", "json"],
        help="what to write to --out; left out: mask for one class, index for several",
    )
    parser.add_argument("--again", action="store_true", help="forget what an earlier run has finished there")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--images-per-call", type=_positive, default=_IMAGES_PER_CALL, metavar="N", help="%(default)s, unless given"
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
        inputs = find(options.images, options.out)
        outputs = output_names(inputs, ".json" if options.format == "json" else ".png")
        check_overwrites(inputs, [options.coco] if options.coco else [options.out / name for name in outputs])
    except (ValueError, InputsError) as error:
        return _say(error, _WRONG_USAGE)
    jobs = [_Job(one, output, state(one)) for one, output in zip(inputs, outputs, strict=True)]
    with Interrupts() as interrupts:
        try:
            return _Run(options, jobs, interrupts).run()
        except KeyboardInterrupt:
            return _say("interrupted; the same command goes on from here", STATUS)
        except JournalError as error:
            return _say(error, _WRONG_USAGE)
        except (SegGptError, OSError) as error:
            return _say(error, _FAILED)


class _Run:
    def __init__(self, options: argparse.Namespace, jobs: Sequence[_Job], interrupts: Interrupts) -> None:
        self._options = options
        self._jobs = jobs
        self._interrupts = interrupts
        self._as_json = options.coco is not None or options.format == "json"

    def run(self) -> int:
        options = self._options
        path = options.coco.with_name(options.coco.name + ".journal") if options.coco else options.out / _JOURNAL
        with ExitStack() as stack:
            client = stack.enter_context(connection.connected(options))
            asked = asking.segment_options(options, client)
            if not self._as_json:
                asked["output"] = options.format or asking.default_output(asked, client)
            question = {**asking.question(asked), "answers": _kind(options), **_model(client)}
            journal = stack.enter_context(Journal(path, question, anew=options.again))
            left = [job for job in self._jobs if not self._is_done(job, journal)]
            failed = self._work(client, journal, left, asked)
            if options.coco is not None:
                self._write_coco(journal)
        if failed:
            return _say(f"{failed} of {len(self._jobs)} pictures have no answer", _FAILED)
        return 0

    def _work(self, client: Client, journal: Journal, left: Sequence[_Job], asked: SegmentOptions) -> int:
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
                        self._keep(result.job, result.item.result(), journal)
                    else:
                        failed += 1
                        bar.write(f"{result.job.input.path}: {_reason(result.item.error)}", file=sys.stderr)
                    bar.update()
        return failed

    def _results(self, client: Client, left: Sequence[_Job], asked: SegmentOptions) -> Iterator[_Result]:
        """Of all jobs, in any order; ends with the first error that is not about one picture."""
        jobs = iter(left)
        chunks: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
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
        chunks: queue.SimpleQueue[list[_Job] | None],
        results: queue.Queue[_Result | Exception | None],
        asked: SegmentOptions,
    ) -> None:
        try:
            while (chunk := chunks.get()) is not None:
                paths = [job.input.path for job in chunk]
                for item in client.segment_batch(paths, json=self._as_json, images_per_call=len(chunk), **asked):
                    results.put(_Result(chunk[item.index], item))
        except Exception as error:  # whatever it is, the main thread must hear of it
            results.put(error)
        else:
            results.put(None)

    def _is_done(self, job: _Job, journal: Journal) -> bool:
        record = journal.finished(job.input)
        if record is None:
            return False
        if self._options.coco is not None:
            return True
        path: Path = self._options.out / job.output
        return record["output"] == str(job.output) and path.is_file()

    def _keep(self, job: _Job, answer: Png | Segmentation, journal: Journal) -> None:
        if self._options.coco is not None:
            assert isinstance(answer, Segmentation)
            journal.add(job.input, job.state, segmentation=coco.compact(answer.body))
            return
        content = json.dumps(answer.body).encode() if isinstance(answer, Segmentation) else answer
        write_whole(self._options.out / job.output, content)
        journal.add(job.input, job.state, output=str(job.output))

    def _write_coco(self, journal: Journal) -> None:
        records = ((job, journal.finished(job.input)) for job in self._jobs)
        answers = ((str(job.input.name), record["segmentation"]) for job, record in records if record is not None)
        with self._interrupts.undisturbed():
            write_whole(self._options.coco, coco.assemble(answers))


def _kind(options: argparse.Namespace) -> str:
    if options.coco is not None:
        return "coco"
    return options.format or "default"


def _model(client: Client) -> Mapping[str, Any]:
    """What else answers depend on: the same service address may have other weights tomorrow."""
    return {
        "models": [
            [model.checkpoint, model.revision, sorted({str(worker.dtype) for worker in model.workers})]
            for model in client.models()
        ]
    }


def _reason(error: SegGptError) -> str:
    return getattr(error, "detail", None) or str(error)


def _say(what: object, status: int) -> int:
    sys.stderr.write(f"seggpt segment: {what}\n")
    return status


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
