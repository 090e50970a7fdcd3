"""`seggpt prompts`: the registered prompts of a service, or of this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from app.client import Client, Prompt, SegGptError
from app.commands import asking, connection, words
from app.commands.interrupts import STATUS

_FAILED: Final = 1
_WRONG_USAGE: Final = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A command of its own for each thing to do."""
    commands = parser.add_subparsers(metavar="action", required=True)

    def command(name: str, summary: str, act: Callable[[Client, argparse.Namespace], None]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        made.set_defaults(act=act)
        connection.add_arguments(made)
        return made

    add = command("add", "register examples, and print the prompt's id", _add)
    asking.add_example_arguments(add)
    add.add_argument("--tuned", metavar="FILE", help="what seggpt tune wrote, in place of examples")
    add.add_argument("--name", help="by which it can be called, too")
    listed = command("list", "list all", _list)
    listed.add_argument("--json", action="store_true", help="as JSON lines")
    show = command("show", "what one is, as JSON", _show)
    show.add_argument("prompt", help="id or name")
    show.add_argument("--preview", type=words.path, metavar="FILE", help="write a picture of its examples here")
    rename = command("rename", "give one another name, or none", _rename)
    rename.add_argument("prompt", help="id or name")
    rename.add_argument("name", nargs="?", help="left out: it has no name any more")
    remove = command("rm", "remove some", _remove)
    remove.add_argument("prompts", nargs="+", metavar="prompt", help="ids or names")


def run(options: argparse.Namespace) -> int:
    """0 when it is done, 1 when the service refuses it, 2 for wrong usage, 130 when interrupted."""
    try:
        connection.check(options)
        if options.act is _add:
            asking.check_examples(options)
            if not options.prompt_image and options.tuned is None:
                raise ValueError("no example: give --prompt-image and --prompt-mask, or --tuned")
            if options.tuned is not None and (options.prompt_image or options.mask_kind is not None):
                raise ValueError("--tuned has learned examples of its own: leave --prompt-image and --mask-kind out")
    except ValueError as error:
        return _say(error, _WRONG_USAGE)
    except OSError as error:
        return _say(error, _FAILED)
    try:
        with connection.connected(options) as client:
            options.act(client, options)
    except (SegGptError, OSError, ValueError) as error:
        return _say(error, _FAILED)
    except KeyboardInterrupt:
        return STATUS
    return 0


def _add(client: Client, options: argparse.Namespace) -> None:
    prompt = client.prompts.register(
        asking.examples(options),
        name=options.name,
        mask_kind=options.mask_kind,
        labels=options.labels,
        tuned=options.tuned,
    )
    sys.stdout.write(f"{prompt.id}\n")


def _list(client: Client, options: argparse.Namespace) -> None:
    for prompt in client.prompts.list():
        if options.json:
            sys.stdout.write(f"{_json(prompt)}\n")
        else:
            classes = ", ".join(label.name for label in prompt.labels)
            created = "-" if prompt.created_at is None else prompt.created_at.strftime("%Y-%m-%d %H:%M")
            shows = "-" if prompt.examples is None else f"{prompt.examples} examples of {classes}"
            columns = (prompt.id, created, shows, prompt.state, prompt.name or "-")
            sys.stdout.write("  ".join(columns) + "\n")


def _show(client: Client, options: argparse.Namespace) -> None:
    prompt = client.prompts.get(options.prompt)
    if options.preview is not None:
        client.prompts.preview(prompt).save(options.preview)
    sys.stdout.write(f"{_json(prompt)}\n")


def _rename(client: Client, options: argparse.Namespace) -> None:
    client.prompts.rename(options.prompt, options.name)


def _remove(client: Client, options: argparse.Namespace) -> None:
    for prompt in options.prompts:
        client.prompts.delete(prompt)


def _json(prompt: Prompt) -> str:
    def plain(value: Any) -> str:
        return str(value.isoformat())

    return json.dumps(asdict(prompt), default=plain, ensure_ascii=False)


def _say(what: object, status: int) -> int:
    sys.stderr.write(f"seggpt prompts: {what}\n")
    return status
