"""Registered prompts: examples that are kept under the hash of their content, and under a name if somebody gave one.

Each prompt is one object, `prompts/<id>.zip`, which never changes and has its first name inside; `app.prompt_names`
has what makes names unique and changeable. Registering takes effect with the archive, renaming with the rename,
deleting with the archive's removal, each in one step (`app.objects`): a kill leaves a prompt whole or not at all.

Several processes may share one store; nothing is remembered but contents, by a stamp that changes with them. In a
folder a lock keeps writers apart. In object storage there is none: archives and claims are created exclusively, and a
claim that is void only because its writer is not done is respected for a minute. What remains there: of two that take
over the same void claim in the same moment both can be told that the name is theirs; the later one has it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from app.errors import InvalidRequest, NameTaken, PromptDamaged, PromptNotFound
from app.examples import Example
from app.labels import Labels, PromptKind
from app.objects import Stamp, open_objects
from app.prompt_archive import Archived, DamagedError, NewPrompt, TunedFor, pack, prompt_id, unpack
from app.prompt_names import Names, Registration, check_name, is_id, not_found

MOST_LISTED: Final = 1000
_SUFFIX: Final = ".zip"
_KEPT_BYTES: Final = 128 * 1024 * 1024
_KEPT_ENTRIES: Final = 10_000
_READ_TOGETHER: Final = 8
# Nothing that a request can bring is larger; a foreign file of any size must not fill the memory.
_MOST_BYTES: Final = 1100 * 1024 * 1024

logger = logging.getLogger(__name__)

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class StoredPrompt:
    """A registered prompt.

    Args:
        id: 32 hexadecimal digits, a hash of kind, labels and examples.
        name: what it is called now.
        created_at: when it was registered, in UTC.
        kind: how the examples' masks show classes.
        labels: the classes.
        examples: encoded, as they came.
        bytes: what it takes in the store.
        tuned_for: the checkpoint that it fits, if it was tuned.
    """

    id: str
    name: str | None
    created_at: datetime
    kind: PromptKind
    labels: Labels
    examples: tuple[Example, ...]
    bytes: int
    tuned_for: TunedFor | None = None


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """A registered prompt without its pictures; of a damaged one only id and bytes are known.

    Args:
        examples: how many.
        is_damaged: what is stored cannot be used.
    """

    id: str
    name: str | None
    created_at: datetime | None
    kind: PromptKind | None
    labels: Labels
    examples: int | None
    bytes: int
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries by rising id, and the id after which the next ones come; None after the last."""

    prompts: tuple[PromptEntry, ...]
    next: str | None


class PromptStore:
    """All registered prompts. Every method blocks, and may be called from any thread.

    Args:
        url: a folder, "~" for the home, or anything that fsspec opens, such as s3://bucket/prompts.

    Raises:
        ValueError: no installed package opens such a url.

    Every method raises PromptStoreUnavailable when the storage cannot be read or written.
    """

    def __init__(self, url: str) -> None:
        self._objects = open_objects(url)
        self._names = Names(self._objects, lambda identity: _registration(self._archived(identity)))
        self._contents = _Kept[Archived](_KEPT_BYTES, lambda archived: archived.bytes)
        self._summaries = _Kept[_Summary](_KEPT_ENTRIES, lambda summary: 1)

    def put(self, prompt: NewPrompt) -> tuple[StoredPrompt, bool]:
        """Register a prompt, or find it: the same content is the same prompt.

        One that is there without a name gets this one's; a damaged one is replaced.

        Returns:
            The prompt as it is stored, and whether it is new.

        Raises:
            InvalidRequest: the name is not allowed.
            NameTaken: another prompt has the name, or this one has another name.
        """
        name = None if prompt.name is None else check_name(prompt.name)
        identity = prompt_id(prompt)
        with self._objects.changing():
            is_damaged = False
            try:
                return self._with_name(self._archived(identity), name), False
            except PromptDamaged:
                is_damaged = True
            except PromptNotFound:
                pass
            if name is not None:
                self._names.claim(name, identity)
            if is_damaged:
                self._objects.remove(_archive_key(identity))
            created_at = datetime.now(UTC).replace(microsecond=0)
            data = pack(replace(prompt, name=name), created_at, uuid.uuid4().hex)
            if not self._objects.create(_archive_key(identity), data):
                # Where there is no lock, another process may have been faster.
                return self._with_name(self._archived(identity), name), False
            # Read back: what is answered is what is stored.
            return self._stored(self._archived(identity)), True

    def get(self, id_or_name: str) -> StoredPrompt:
        """The prompt of that id or name.

        Raises:
            PromptNotFound: there is none.
            PromptDamaged: what is stored of it is not what was registered.
        """
        identity, name = self._names.identify(id_or_name)
        stored = self._stored(self._archived(identity))
        if name is not None and stored.name != name:
            raise not_found(id_or_name)
        return stored

    def list(self, limit: int = 100, after: str | None = None) -> Page:
        """The prompts by rising id, at most `limit` of them, those after the id `after`.

        Raises:
            InvalidRequest: `after` is not an id.
        """
        assert 1 <= limit <= MOST_LISTED
        if after is not None and not is_id(after):
            raise InvalidRequest(f"after: got {after[:80]!r}; allowed is what `next` of the page before said")
        files = self._objects.list("prompts")
        stamps = {name.removesuffix(_SUFFIX): stamp for name, stamp in files.items() if name.endswith(_SUFFIX)}
        identities = sorted(name for name in stamps if is_id(name) and (after is None or name > after))
        shown = identities[:limit]
        summaries = tuple(self._summarised({identity: stamps[identity] for identity in shown}))
        names = self._names.of([summary.registration for summary in summaries])
        prompts = tuple(replace(summary.entry, name=names.get(summary.entry.id)) for summary in summaries)
        return Page(prompts, shown[-1] if len(identities) > limit else None)

    def rename(self, id_or_name: str, name: str | None) -> StoredPrompt:
        """Give a prompt another name, or none.

        Raises:
            PromptNotFound, PromptDamaged: see `get`.
            InvalidRequest: the name is not allowed.
            NameTaken: another prompt has it.
        """
        name = None if name is None else check_name(name)
        with self._objects.changing():
            stored = self.get(id_or_name)
            self._names.change(_registration(self._archived(stored.id)), name)
            return replace(stored, name=name)

    def delete(self, id_or_name: str) -> None:
        """Forget a prompt, damaged or not.

        Raises:
            PromptNotFound: there is none.
        """
        with self._objects.changing():
            try:
                stored = self.get(id_or_name)
                identity, name = stored.id, stored.name
            except PromptDamaged:
                identity, name = self._names.identify(id_or_name)
            self._objects.remove(_archive_key(identity))
            self._names.forget(identity, name)

    def _with_name(self, archived: Archived, name: str | None) -> StoredPrompt:
        """A prompt that is there already, with the name that it is registered with once more."""
        stored = self._stored(archived)
        if name is None or stored.name == name:
            return stored
        if stored.name is not None:
            raise NameTaken(
                f"these examples are registered already, as {stored.name!r}; rename that prompt, or send no name",
                id=stored.id,
            )
        self._names.change(_registration(archived), name)
        return replace(stored, name=name)

    def _stored(self, archived: Archived) -> StoredPrompt:
        name = self._names.of([_registration(archived)]).get(archived.id)
        prompt = archived.prompt
        return StoredPrompt(
            id=archived.id,
            name=name,
            created_at=archived.created_at,
            kind=prompt.kind,
            labels=prompt.labels,
            examples=prompt.examples,
            bytes=archived.bytes,
            tuned_for=prompt.tuned_for,
        )

    def _archived(self, identity: str) -> Archived:
        """What is stored under an id; kept in memory as long as the storage's stamp says that it is the same.

        Raises:
            PromptNotFound, PromptDamaged: see `get`.
        """
        key = _archive_key(identity)
        stamp = self._objects.stamp(key)
        if stamp is None:
            raise not_found(identity)
        kept = self._contents.get(identity, stamp)
        if kept is not None:
            return kept
        data = self._objects.read(key) if stamp.bytes <= _MOST_BYTES else b""
        if data is None:
            raise not_found(identity)
        try:
            archived = unpack(data, identity)
        except DamagedError as error:
            logger.warning("the stored prompt %s is damaged: %s", identity, error)
            raise PromptDamaged(
                f"the stored prompt {identity} is damaged: {error}; delete it and register it again", id=identity
            ) from error
        self._contents.put(identity, stamp, archived)
        return archived

    def _summarised(self, stamps: Mapping[str, Stamp]) -> Iterator[_Summary]:
        """Those of the ids that are still there, in their order; each is read once and then only when it changes."""
        identities = tuple(stamps)
        for start in range(0, len(identities), _READ_TOGETHER):
            together = identities[start : start + _READ_TOGETHER]
            known = {identity: self._summaries.get(identity, stamps[identity]) for identity in together}
            missing = [key for key, summary in known.items() if summary is None and stamps[key].bytes <= _MOST_BYTES]
            contents = self._objects.read_many(map(_archive_key, missing))
            for identity in together:
                stamp = stamps[identity]
                summary = known[identity]
                if summary is None and stamp.bytes > _MOST_BYTES:
                    summary = _damaged(identity, stamp)
                elif summary is None and (data := contents.get(_archive_key(identity))) is not None:
                    summary = _read_summary(data, identity, stamp)
                    self._summaries.put(identity, stamp, summary)
                if summary is not None:
                    yield summary


@dataclass(frozen=True, slots=True)
class _Summary:
    """What a listing needs of an archive; the entry has no name yet."""

    entry: PromptEntry
    registration: Registration


class _Kept(Generic[Content]):
    """What was read lately, by id and stamp. For several threads.

    Args:
        limit: the weights of all together; what was used longest ago goes first.
        weight: of one.
    """

    def __init__(self, limit: int, weight: Callable[[Content], int]) -> None:
        self._limit = limit
        self._weight = weight
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Stamp, Content]] = OrderedDict()
        self._held = 0

    def get(self, identity: str, stamp: Stamp) -> Content | None:
        """What was read of this id, if the storage has the same still."""
        with self._lock:
            kept = self._kept.get(identity)
            if kept is None or kept[0] != stamp or stamp.version is None:
                return None
            self._kept.move_to_end(identity)
            return kept[1]

    def put(self, identity: str, stamp: Stamp, content: Content) -> None:
        """Keep it, in place of others if there is no room."""
        with self._lock:
            before = self._kept.pop(identity, None)
            self._held += self._weight(content) - (0 if before is None else self._weight(before[1]))
            self._kept[identity] = (stamp, content)
            while self._held > self._limit:
                _, (_, oldest) = self._kept.popitem(last=False)
                self._held -= self._weight(oldest)


def _registration(archived: Archived) -> Registration:
    return Registration(archived.id, archived.prompt.name, archived.mark)


def _read_summary(data: bytes, identity: str, stamp: Stamp) -> _Summary:
    try:
        archived = unpack(data, identity)
    except DamagedError as error:
        logger.warning("the stored prompt %s is damaged: %s", identity, error)
        return _damaged(identity, stamp)
    prompt = archived.prompt
    entry = PromptEntry(
        identity, None, archived.created_at, prompt.kind, prompt.labels, len(prompt.examples), archived.bytes
    )
    return _Summary(entry, _registration(archived))


def _damaged(identity: str, stamp: Stamp) -> _Summary:
    entry = PromptEntry(identity, None, None, None, (), None, stamp.bytes, is_damaged=True)
    return _Summary(entry, Registration(identity, None, None))


def _archive_key(identity: str) -> str:
    return f"prompts/{identity}{_SUFFIX}"
