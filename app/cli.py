"""`seggpt`: the command line. Knows the commands' names; each is a module that is imported when it is asked for.

So `seggpt segment --help` waits for no network library, and what only some commands need (torch, for `convert` and
`tune`) stays away from all others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

_COMMANDS: Final = {
    "serve": "run the service in the foreground",
    "segment": "mark the same in many pictures: files, folders, globs",
    "prompts": "add, list, show, rename and remove registered prompts",
    "tune": "learn a prompt for one set of pictures",
    "convert": "write a checkpoint, an original .pth for one, as safetensors",
    "info": "what a checkpoint is, or what a running service has loaded",
}
_EPILOGUE: Final = """\
exit status: 0 all done; 1 failed, or at least one picture has no answer; 2 wrong usage; 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status.

    Args:
        arguments: without the program's name; None means the process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="seggpt",
        description="SegGPT as a service: show one picture with its mask, get the mask of the same in others.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    chosen = given[0] if given and given[0] in _COMMANDS else None
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_EPILOGUE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen:
            import_module(f"app.commands.{name}").add_arguments(command)
    options = parser.parse_args(given)
    status: int = import_module(f"app.commands.{options.command}").run(options)
    return status
