"""One registered prompt as one file: a zip archive of its examples as they came and a manifest, with its own hash.

The archive's comment is the SHA-256 of all bytes before it, so that no damaged byte and no missing end goes unnoticed,
and any program that opens zip archives opens these. The id is a hash of what the prompt means, not of the archive.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any, Final, get_args

from app.examples import Example
from app.labels import Label, Labels, PromptKind, hexadecimal

ID_CHARACTERS: Final = 32
_FORMAT: Final = 1
_SEAL_BYTES: Final = 64
_MANIFEST: Final = "manifest.json"
# Never the clock: two archives of the same prompt differ only where their manifests do.
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
# What a forged archive with a right seal can still bring forth in zipfile, json and the manifest's reading.
_UNREADABLE: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    OSError,
    struct.error,
)


class DamagedError(ValueError):
    """The archive is damaged, cut short, or none; the text says which, in a few words."""


@dataclass(frozen=True, slots=True)
class TunedFor:
    """The one checkpoint that a tuned prompt fits.

    Args:
        checkpoint: what people call it.
        fingerprint: of its weights, 64 hexadecimal digits; the same as `model.checkpoint.fingerprint`.
    """

    checkpoint: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class NewPrompt:
    """What somebody wants to register.

    Args:
        examples: at least one, encoded.
        kind: how their masks show classes.
        labels: the classes.
        name: what people may call it instead of its id.
        tuned_for: of a tuned prompt, and only of such a one.
    """

    examples: tuple[Example, ...]
    kind: PromptKind
    labels: Labels
    name: str | None = None
    tuned_for: TunedFor | None = None


@dataclass(frozen=True, slots=True)
class Archived:
    """A prompt as its archive has it.

    Args:
        prompt: its content; its name is the first one, given when it was registered.
        id: hash of its content.
        created_at: in UTC.
        mark: random; tells this registration from an earlier one of the same content.
        bytes: the archive's length.
    """

    prompt: NewPrompt
    id: str
    created_at: datetime
    mark: str
    bytes: int


def prompt_id(prompt: NewPrompt) -> str:
    """32 hexadecimal digits: a hash of mask kind, labels and the files' bytes, in order; the name does not count.

    Of a tuned prompt the checkpoint's fingerprint counts, too.
    """
    labels = [[label.index, label.name, hexadecimal(label.colour)] for label in prompt.labels]
    meaning = [prompt.kind, labels, *([] if prompt.tuned_for is None else [prompt.tuned_for.fingerprint])]
    digest = hashlib.blake2b(digest_size=ID_CHARACTERS // 2)
    for part in (json.dumps(meaning).encode(), *_files(prompt).values()):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def pack(prompt: NewPrompt, created_at: datetime, mark: str) -> bytes:
    """The archive of a prompt."""
    manifest = {
        "format": _FORMAT,
        "id": prompt_id(prompt),
        "name": prompt.name,
        "created_at": created_at.isoformat(),
        "mark": mark,
        "mask_kind": prompt.kind,
        "labels": [
            {"index": label.index, "name": label.name, "colour": hexadecimal(label.colour)} for label in prompt.labels
        ],
        "examples": len(prompt.examples),
    }
    if prompt.tuned_for is not None:
        manifest["tuned_for"] = asdict(prompt.tuned_for)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # pictures are compressed already
        archive.writestr(zipfile.ZipInfo(_MANIFEST, _ZIP_TIME), json.dumps(manifest, indent=1))
        for name, content in _files(prompt).items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), content)
        archive.comment = bytes(_SEAL_BYTES)
    body = buffer.getbuffer()[:-_SEAL_BYTES]
    return b"".join((body, _seal(body)))


def unpack(data: bytes, identity: str) -> Archived:
    """Read an archive, whatever the bytes are.

    Args:
        data: what is stored.
        identity: the id under which it is stored.

    Raises:
        DamagedError: the bytes are not those that were written, or belong to another id.
    """
    view = memoryview(data)
    if _seal(view[:-_SEAL_BYTES]) != bytes(view[-_SEAL_BYTES:]):
        raise DamagedError(f"its {len(data)} bytes are not those that were written")
    try:
        archived = _unpack(data)
    except _UNREADABLE as error:
        raise DamagedError("it is not an archive of this service") from error
    if archived.id != identity or prompt_id(archived.prompt) != identity:
        raise DamagedError("its content is another one's")
    return archived


def _unpack(data: bytes) -> Archived:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data):
                raise ValueError(entry.filename)  # would swell when read
        manifest: dict[str, Any] = json.loads(archive.read(_MANIFEST))
        count, kind, name = manifest["examples"], manifest["mask_kind"], manifest["name"]
        if manifest["format"] != _FORMAT or kind not in get_args(PromptKind) or not isinstance(count, int):
            raise ValueError(_MANIFEST)
        tuned_for = TunedFor(**manifest["tuned_for"]) if kind == "tuned" else None
        examples = tuple(
            Example(archive.read(f"image-{number}"), archive.read(f"mask-{number}")) for number in range(count)
        )
    if not examples or not (name is None or isinstance(name, str)):
        raise ValueError(_MANIFEST)
    labels = tuple(
        Label(int(entry["index"]), str(entry["name"]), _colour(entry["colour"])) for entry in manifest["labels"]
    )
    created_at = datetime.fromisoformat(manifest["created_at"]).astimezone(UTC)
    return Archived(
        NewPrompt(examples, kind, labels, name, tuned_for),
        manifest["id"],
        created_at,
        str(manifest["mark"]),
        len(data),
    )


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def _files(prompt: NewPrompt) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for number, example in enumerate(prompt.examples):
        files |= {f"image-{number}": example.image, f"mask-{number}": example.mask}
    return files


def _seal(body: memoryview) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
