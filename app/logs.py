"""Log records -> JSON lines for machines or readable lines for a terminal, each with its request's id.

Importing this changes nothing; `configure` does, once per process.
"""

import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

request_id: Final[ContextVar[str | None]] = ContextVar("request_id", default=None)
"""The id of the request that this task serves; set by the middleware, on every record of the task."""

HANDLER_NAME: Final = "seggpt"
_UVICORN_LOGGERS: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
# uvicorn's own colours for terminals: the message again, with escape codes
_NOT_EXTRA: Final = frozenset({*RESERVED_ATTRS, "request_id", "color_message"})


def configure(
    format: Literal["auto", "json", "text"] = "auto",  # noqa: A002 - the setting's word
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send all records, uvicorn's and warnings too, to one stream in one format.

    Calling it again replaces what it set before; handlers of others stay.

    Args:
        format: "auto" is "text" where the stream is a terminal, else "json".
        level: the least level that is logged, by name, in any case.
        stream: stderr by default.

    Raises:
        ValueError: the level or the format is unknown.
    """
    stream = stream or sys.stderr
    if format == "auto":
        format = "text" if stream.isatty() else "json"  # noqa: A001 - the setting's word
    if format not in {"json", "text"}:
        raise ValueError(f'got log format {format!r}; allowed are "auto", "json", "text"')

    handler = logging.StreamHandler(stream)
    handler.set_name(HANDLER_NAME)
    handler.setFormatter(_JsonLines() if format == "json" else _TextLines())
    handler.addFilter(_add_request_id)

    root = logging.getLogger()
    root.setLevel(level.upper())
    for old in [old for old in root.handlers if old.get_name() == HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.captureWarnings(True)


def _add_request_id(record: logging.LogRecord) -> bool:
    # A record made outside the request's task, e.g. in a codec thread, may bring the id itself.
    if not hasattr(record, "request_id"):
        record.request_id = request_id.get()
    return True


def _iso_time(record: logging.LogRecord) -> str:
    """ISO 8601 in UTC with milliseconds, e.g. 2024-05-01T12:00:00.123Z."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _JsonLines(JsonFormatter):
    """One JSON object per line: time, level, logger, message, request_id, then the record's extra members."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
            reserved_attrs=sorted(_NOT_EXTRA),
            json_ensure_ascii=False,
        )

    def add_fields(
        self,
        log_data: dict[str, object],
        record: logging.LogRecord,
        message_dict: dict[str, object],
    ) -> None:
        """Put time first and the request id in; the base class adds the rest."""
        log_data["time"] = _iso_time(record)
        super().add_fields(log_data, record, message_dict)
        log_data["request_id"] = getattr(record, "request_id", None)


class _TextLines(logging.Formatter):
    """`12:00:00.123 INFO    app.pipeline: answered [request 5f2c] forward_ms=12.5`, local time."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = f"{clock} {record.levelname:<7} {record.name}: {record.getMessage()}"
        if identity := getattr(record, "request_id", None):
            line += f" [request {identity}]"
        extra = {key: value for key, value in record.__dict__.items() if key not in _NOT_EXTRA}
        line += "".join(f" {key}={value}" for key, value in extra.items())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line
