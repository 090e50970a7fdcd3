"""Logs: JSON lines or text, each with its request's id."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.logs import HANDLER_NAME, configure, request_id


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [handler for handler in root.handlers if handler.get_name() == HANDLER_NAME]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_stable_keys_and_the_extra_ones() -> None:
    stream = io.StringIO()
    configure("json", "info", stream)
    token = request_id.set("5f2c")
    logging.getLogger("app.pipeline").info("answered %s", "größer", extra={"forward_ms": 12.5})
    request_id.reset(token)
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "INFO",
        "logger": "app.pipeline",
        "message": "answered größer",
        "request_id": "5f2c",
        "forward_ms": 12.5,
    }


def test_tasks_of_two_requests_log_their_own_ids() -> None:
    stream = io.StringIO()
    configure("json", "info", stream)

    async def serve(identity: str) -> None:
        request_id.set(identity)
        await asyncio.sleep(0)
        logging.getLogger("app").info(identity)

    async def both() -> None:
        await asyncio.gather(serve("a"), serve("b"))
        logging.getLogger("app").info("outside", extra={"request_id": "given"})

    asyncio.run(both())
    assert {line["message"]: line["request_id"] for line in lines(stream)} == {
        "a": "a",
        "b": "b",
        "outside": "given",
    }


def test_an_exception_stays_on_one_json_line() -> None:
    stream = io.StringIO()
    configure("json", "info", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("app").exception("failed")
    (line,) = lines(stream)
    assert line["message"] == "failed"
    assert line["exception"].endswith("RuntimeError: broken")
    assert line["request_id"] is None


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    configure("auto", "info", terminal)
    logging.getLogger("app").info("hello", extra={"decode_ms": 3, "request_id": "5f2c"})
    configure("auto", "info", pipe)
    logging.getLogger("app").info("hello")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    app: hello \[request 5f2c\] decode_ms=3\n", terminal.getvalue())
    assert len(lines(pipe)) == 1


def test_text_shows_the_traceback_below_the_line() -> None:
    stream = io.StringIO()
    configure("text", "info", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("app").exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR   app: failed")
    assert rest[-1] == "RuntimeError: broken"


def test_uvicorns_records_come_in_the_same_format_once() -> None:
    stream = io.StringIO()
    logger = logging.getLogger("uvicorn.error")
    logger.addHandler(logging.StreamHandler(io.StringIO()))
    logger.propagate = False
    configure("json", "info", stream)
    logger.info("Started server process", extra={"color_message": "\x1b[36mStarted\x1b[0m"})
    (line,) = lines(stream)
    assert line["logger"] == "uvicorn.error"
    assert "color_message" not in line


def test_configuring_again_replaces_the_format_and_keeps_the_handlers_of_others() -> None:
    stream, others = io.StringIO(), logging.NullHandler()
    logging.getLogger().addHandler(others)
    configure("json", "info", stream)
    configure("json", "WARNING", stream)
    logging.getLogger("app").info("quiet")
    logging.getLogger("app").warning("loud")
    assert [line["message"] for line in lines(stream)] == ["loud"]
    assert others in logging.getLogger().handlers
    logging.getLogger().removeHandler(others)


def test_warnings_become_records() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        configure("json", "info", stream)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    (line,) = lines(stream)
    assert (line["logger"], line["level"]) == ("py.warnings", "WARNING")


def test_an_unknown_level_or_format_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure("json", "loud")
    with pytest.raises(ValueError, match="got log format 'xml'"):
        configure("xml")  # type: ignore[arg-type]


def test_importing_the_module_changes_nothing() -> None:
    program = "import logging; before = vars(logging.root).copy(); import app.logs; print(before == vars(logging.root))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
