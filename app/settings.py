"""Every knob of the service: environment variables with the prefix SEGGPT_, read once at start.

Knows names, bounds and defaults; what they do is elsewhere. Never imports torch: the HTTP process stays
light.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX: Final = "SEGGPT_"
BUNDLED_CHECKPOINT: Final = "bundled"

_MIB: Final = 1024 * 1024
_DEVICE: Final = re.compile(r"cpu|cuda:\d{1,2}")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_TRAILING_URL: Final = re.compile(r" *For further information visit \S+")


class SettingsError(ValueError):
    """The settings are wrong; the text has one line for each wrong variable, ready to be printed."""


def parse_devices(value: object) -> object:
    """Read "auto", "cpu", "cuda" or a comma-separated list such as "cuda:0,cuda:1" as a tuple of names.

    Raises:
        ValueError: a name is unknown, or "auto" or "cuda" stands in a list.
    """
    if isinstance(value, str):
        value = tuple(name.strip().lower() for name in value.split(","))
    if not isinstance(value, (tuple, list)):
        return value  # pydantic names the wrong type
    names = tuple(value)
    if names in {("auto",), ("cuda",)}:
        return names
    for name in names:
        if not isinstance(name, str) or not _DEVICE.fullmatch(name):
            raise ValueError('allowed are "auto", "cpu", "cuda", or a list such as "cuda:0,cuda:1"')
    return names


def parse_hosts(value: object) -> object:
    """Read "a.example.com, b.example.com" as a tuple of lower-case host names.

    Raises:
        ValueError: a name has a scheme, a port, a path or a wildcard.
    """
    if isinstance(value, str):
        value = tuple(name.strip().lower() for name in value.split(",") if name.strip())
    if not isinstance(value, (tuple, list)):
        return value
    for name in value:
        if not isinstance(name, str) or not _HOST.fullmatch(name):
            raise ValueError('allowed are host names without scheme, port and path, such as "images.example.com"')
    return tuple(value)


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


_Choice: Final = BeforeValidator(_lower)


class Settings(BaseSettings):
    """The service's settings; immutable once read.

    Field names are the variables' names without the prefix, in lower case. An empty variable counts as unset.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 takes a free one.")

    checkpoint: str = Field(
        BUNDLED_CHECKPOINT,
        min_length=1,
        description='Weights: "bundled", a hub id, a folder, a .safetensors file or the original .pth.',
    )
    revision: str | None = Field(None, min_length=1, description="Branch, tag or commit of a hub id.")
    cache_dir: str | None = Field(
        None, min_length=1, description="Folder for downloads; unset: Hugging Face's own default."
    )
    token: SecretStr | None = Field(None, description="Access token for the hub; never logged.")
    offline: bool = Field(False, description="Never use the network; a hub id must then be in the cache.")

    devices: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_devices)] = Field(
        ("auto",),
        min_length=1,
        max_length=64,
        description='One worker process per device: "auto" (every CUDA device, else the CPU, which a small network '
        'shares out among up to 4 workers), "cpu", "cuda" (every CUDA device), or a list such as "cuda:0,cuda:1" or '
        '"cpu,cpu".',
    )
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16", "int8"], _Choice] = Field(
        "auto",
        description="Precision of the network; auto is bfloat16 where the hardware computes with it, else float32 on a "
        "CPU and float16 on a GPU. int8 is faster and less exact.",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Torch threads of a worker on a CPU; unset: its share of the cores."
    )

    max_body_bytes: int = Field(64 * _MIB, ge=1024, le=1024 * _MIB, description="Largest request body.")
    max_bytes_in_flight: int = Field(
        512 * _MIB, ge=1024, description="Bytes of all request bodies held at once; at least MAX_BODY_BYTES."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=500_000_000, description="Most pixels of one picture, read before decoding."
    )
    max_image_side: int = Field(
        16384, ge=1, le=65535, description="Longest side of one picture in pixels, read before decoding."
    )
    max_examples: int = Field(16, ge=1, le=256, description="Most examples of one request.")

    max_tiles: int = Field(256, ge=1, le=4096, description="Most tiles that one input image is cut into.")
    max_batch_images: int = Field(1000, ge=1, le=100_000, description="Most input images of one batch request.")
    max_batch_bytes: int = Field(
        4096 * _MIB,
        ge=1024,
        description="Largest body of a batch request; it is read as it is worked on, never held as a whole.",
    )
    url_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_hosts)] = Field(
        (),
        max_length=64,
        description='Hosts from which pictures may be fetched by URL, such as "images.example.com,cdn.example.com"; '
        "unset: none, URLs are refused.",
    )
    url_timeout_s: float = Field(10, gt=0, le=300, description="Seconds in which a picture must have come by URL.")

    prompts: str = Field(
        "~/.local/share/seggpt/prompts",
        min_length=1,
        description="Where registered prompts are kept: a folder, or what fsspec opens, such as s3://bucket/prompts.",
    )

    queue_pairs: int = Field(
        64, ge=1, le=65536, description="(image, example) pairs that may wait; at least MAX_EXAMPLES."
    )
    max_batch_pairs: int = Field(
        8, ge=1, le=256, description="Pairs of one forward; a single request with more runs on its own."
    )
    deadline_s: float = Field(
        60, gt=0, le=3600, description="Seconds from a request's arrival to its answer, then 504."
    )
    forward_timeout_s: float = Field(
        300, gt=0, le=3600, description="Seconds of one forward; a worker that takes longer is replaced."
    )
    warmup_limit_s: float = Field(
        5,
        ge=0,
        le=3600,
        description="A batch size whose warm-up forward takes more seconds is not used; single pairs always are.",
    )
    example_cache_bytes: int = Field(
        128 * _MIB,
        ge=0,
        description="Bytes of decoded examples that are kept: an example that comes again is not decoded again.",
    )
    prompt_cache_bytes: int = Field(
        256 * _MIB,
        ge=0,
        description="Bytes on each device for what is computed from examples alone, kept for the requests that follow.",
    )
    drain_s: float = Field(
        30, ge=0, le=3600, description="Seconds after SIGTERM in which accepted requests are finished."
    )
    codec_threads: int | None = Field(
        None, ge=1, le=256, description="Threads that decode and encode; unset: CPU cores - 1, at least 1."
    )

    log_format: Annotated[Literal["auto", "json", "text"], _Choice] = Field(
        "auto", description="JSON lines or readable text; auto: text on a terminal, else JSON."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _Choice] = Field(
        "info", description="Least level that is logged."
    )

    @model_validator(mode="after")
    def _limits_must_admit_the_largest_request(self) -> "Settings":
        if self.queue_pairs < self.max_examples:
            raise ValueError(
                f"{PREFIX}QUEUE_PAIRS is {self.queue_pairs}, must be at least {PREFIX}MAX_EXAMPLES "
                f"({self.max_examples}), or the largest allowed request could never be queued"
            )
        if self.max_bytes_in_flight < self.max_body_bytes:
            raise ValueError(
                f"{PREFIX}MAX_BYTES_IN_FLIGHT is {self.max_bytes_in_flight}, must be at least "
                f"{PREFIX}MAX_BODY_BYTES ({self.max_body_bytes}), or the largest body could never be read"
            )
        return self


def variable(field: str) -> str:
    """The environment variable of a field, e.g. "SEGGPT_QUEUE_PAIRS" of "queue_pairs"."""
    return PREFIX + field.upper()


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; overrides (the command line's) win over it.

    Args:
        overrides: values by field name, e.g. `port=9000`.

    Raises:
        SettingsError: at least one value is not allowed; one line for each, naming its variable.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        # `from None`: the traceback of the validation names no variable and would only bury the lines.
        raise SettingsError("\n".join(_line(item) for item in error.errors(include_url=False))) from None


def misspelt_variables(environment: Iterable[str]) -> list[tuple[str, str]]:
    """Variables that look like a setting but are none, each with the one that was probably meant.

    Others with the prefix are left alone: Kubernetes sets SEGGPT_SERVICE_HOST for a service named seggpt.
    """
    known = [variable(field) for field in Settings.model_fields]
    found = []
    for name in sorted(set(environment)):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            found += [(name, close[0])] if close else []
    return found


def _line(item: Any) -> str:
    """One line for one pydantic error."""
    message = _TRAILING_URL.sub("", item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return str(message)  # a rule about two settings names both itself
    field = str(item["loc"][0])
    if field not in Settings.model_fields:
        return f"{field}: there is no such setting"
    is_secret = field == "token"
    got = "" if is_secret or item["type"] == "missing" else f"got {item['input']!r}, "
    return f"{variable(field)}: {got}{message[:1].lower()}{message[1:]}"
