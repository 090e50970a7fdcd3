"""Names of registered prompts: unique, changeable, and true in one step.

Two kinds of objects beside the archives:

    names/<hash of a name>.json    a claim: this name is that id's; created only where there is none
    renames/<id>.json              the present name of a prompt that was renamed, or null

A prompt has a name when both sides say so: its archive's first name (or its rename, which counts only for the
registration that it was written for), and the claim of that name. So what a kill leaves half done is void.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app.errors import InvalidRequest, NameTaken, PromptDamaged, PromptNotFound
from app.objects import Objects
from app.prompt_archive import ID_CHARACTERS

NAME_CHARACTERS: Final = 100
_ID: Final = re.compile(rf"[0-9a-f]{{{ID_CHARACTERS}}}")
_GRACE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Registration:
    """What names need to know of an archive.

    Args:
        id: the prompt's.
        first_name: given when it was registered.
        mark: tells this registration from earlier ones of the same content; None if the archive is damaged.
    """

    id: str
    first_name: str | None
    mark: str | None


def is_id(text: str) -> bool:
    """Whether this is an id, not a name."""
    return _ID.fullmatch(text) is not None


def check_name(name: str) -> str:
    """The name in its one spelling: composed characters, no space around it.

    Raises:
        InvalidRequest: it is empty, too long, not printable, a path or a path's part, or looks like an id.
    """
    spelt = unicodedata.normalize("NFC", name.strip())
    if not 1 <= len(spelt) <= NAME_CHARACTERS or not spelt.isprintable() or "/" in spelt or spelt in {".", ".."}:
        raise InvalidRequest(
            f"name: got {name[: NAME_CHARACTERS + 1]!r}; allowed are 1 to {NAME_CHARACTERS} printable characters "
            "without a slash"
        )
    if is_id(spelt.lower()):
        raise InvalidRequest(f"name: got {spelt!r}, which looks like an id; allowed is any other word")
    return spelt


def not_found(id_or_name: str) -> PromptNotFound:
    """The problem, in words."""
    return PromptNotFound(f"got {id_or_name[:NAME_CHARACTERS]!r}; no registered prompt has this id or name")


class Names:
    """All names of one store. Whoever changes them is inside `Objects.changing`.

    Args:
        objects: where they are kept.
        registered: reads the registration of an id, or raises PromptNotFound or PromptDamaged.
    """

    def __init__(self, objects: Objects, registered: Callable[[str], Registration]) -> None:
        self._objects = objects
        self._registered = registered

    def identify(self, id_or_name: str) -> tuple[str, str | None]:
        """The id that is meant, and the name if it was one; whether the prompt knows of it is still to be seen.

        Raises:
            PromptNotFound: nobody has claimed that name.
        """
        if is_id(id_or_name):
            return id_or_name, None
        try:
            name = check_name(id_or_name)
        except InvalidRequest:
            raise not_found(id_or_name) from None
        claim = _read_claim(self._objects.read(_claim_key(name)))
        if claim is None:
            raise not_found(id_or_name)
        return claim.id, name

    def of(self, registrations: Collection[Registration]) -> dict[str, str]:
        """By id, the names of those that have one."""
        said = self._said(registrations)
        contents = self._objects.read_many({_claim_key(name) for name in said.values()})
        claims = {key: _read_claim(content) for key, content in contents.items()}
        holders = {key: claim.id for key, claim in claims.items() if claim is not None}
        return {identity: name for identity, name in said.items() if holders.get(_claim_key(name)) == identity}

    def change(self, registration: Registration, name: str | None) -> None:
        """Give a prompt another name, in place of the one that it has.

        Raises:
            NameTaken: another prompt has it.
        """
        former = self.of([registration]).get(registration.id)
        if former == name:
            return
        if name is not None:
            self.claim(name, registration.id)
        self._objects.write(_rename_key(registration.id), _json({"mark": registration.mark, "name": name}))
        if former is not None:
            self._give_up(former, registration.id)

    def claim(self, name: str, identity: str) -> None:
        """Make a name this id's; it has it as soon as its archive or rename says so as well.

        Raises:
            NameTaken: another prompt has it.
        """
        key = _claim_key(name)
        content = _json({"name": name, "id": identity, "at": time.time()})
        if self._objects.create(key, content):
            return
        claim = _read_claim(self._objects.read(key))
        if claim is not None and claim.id != identity and self._holds(claim, name):
            raise NameTaken(f"the prompt {claim.id} has the name {name!r}; each name is one prompt's", id=claim.id)
        self._objects.write(key, content)

    def forget(self, identity: str, name: str | None) -> None:
        """Remove what is left of a prompt that is gone."""
        self._objects.remove(_rename_key(identity))
        if name is not None:
            self._give_up(name, identity)

    def _holds(self, claim: _Claim, name: str) -> bool:
        """Whether the prompt of a claim has this name, or may be about to get it."""
        if not self._objects.is_locked and abs(time.time() - claim.at) < _GRACE_S:
            return True
        try:
            registration = self._registered(claim.id)
        except PromptNotFound:
            return False
        except PromptDamaged:
            return True  # nobody can say; deleting it frees the name
        return self._said([registration]).get(claim.id) == name

    def _said(self, registrations: Collection[Registration]) -> dict[str, str]:
        """By id, what archives and renames say; only a claim makes it true."""
        marks = {registration.id: registration.mark for registration in registrations}
        said = {registration.id: registration.first_name for registration in registrations}
        keys = {_rename_key(identity): identity for identity in marks}
        if len(keys) > 1:  # few are ever renamed: one listing is less than a read for each
            renamed = self._objects.list("renames")
            keys = {key: identity for key, identity in keys.items() if key.rpartition("/")[2] in renamed}
        for key, content in self._objects.read_many(keys).items():
            rename = _fields(content)
            if rename.get("mark") == marks[keys[key]]:
                said[keys[key]] = rename.get("name")
        return {identity: name for identity, name in said.items() if isinstance(name, str)}

    def _give_up(self, name: str, identity: str) -> None:
        claim = _read_claim(self._objects.read(_claim_key(name)))
        if claim is not None and claim.id == identity:
            self._objects.remove(_claim_key(name))


@dataclass(frozen=True, slots=True)
class _Claim:
    """That a name is an id's, since when (seconds since 1970)."""

    id: str
    at: float


def _read_claim(content: bytes | None) -> _Claim | None:
    """None if there is none that can be read."""
    fields = {} if content is None else _fields(content)
    identity, at = fields.get("id"), fields.get("at")
    if isinstance(identity, str) and is_id(identity) and isinstance(at, int | float):
        return _Claim(identity, at)
    return None


def _rename_key(identity: str) -> str:
    return f"renames/{identity}.json"


def _claim_key(name: str) -> str:
    # Hashed: a name may have more bytes than a file name, and characters that a file name may not have.
    return f"names/{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.json"


def _json(fields: Mapping[str, str | float | None]) -> bytes:
    return json.dumps(fields).encode()


def _fields(content: bytes) -> dict[str, Any]:
    """A JSON object; an empty one if it is something else."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}
