"""What the device keeps of prompts: their mask streams, which no input image changes.

The mask stream up to the merge is about a tenth of a forward. A forward always goes through it, kept or computed just
now, so that a prompt's first answer and its later ones are the same. A worker that is started again has forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from app.worker.messages import GroupRun
from model.encoder import MaskStream

Compute = Callable[[Sequence[GroupRun]], MaskStream]
"""Groups -> their mask streams as those of one batch, in order."""

_Key = tuple[str, str]


class PromptStreams:
    """The mask streams of the latest prompts.

    Args:
        limit_bytes: bytes of all streams kept together; those used longest ago go first. 0 keeps none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[_Key, MaskStream] = OrderedDict()
        self.held_bytes = 0

    def missing(self, groups: Sequence[GroupRun]) -> list[GroupRun]:
        """Those of `groups` whose stream must be computed; of several with the same prompt, the first."""
        missing: dict[_Key | int, GroupRun] = {}
        for index, group in enumerate(groups):
            key = _key(group)
            if key is None or key not in self._kept:
                missing.setdefault(index if key is None else key, group)
        return list(missing.values())

    def of(self, groups: Sequence[GroupRun], compute: Compute) -> MaskStream:
        """The mask stream of a batch: what is kept, and what is missing, in one computation, kept from now on."""
        missing = self.missing(groups)
        fresh = dict(zip(map(id, missing), apart(compute(missing)), strict=True)) if missing else {}
        named = {key: fresh[id(group)] for group in missing if (key := _key(group)) is not None}
        streams = [fresh.get(id(group)) or self._find(group, named) for group in groups]
        for key, stream in named.items():
            self._put(key, stream)
        return MaskStream.joined(streams)

    def forget(self, group: GroupRun) -> None:
        """Keep nothing of this group's prompt: its answer was not finite."""
        key = _key(group)
        if key is not None and key in self._kept:
            self.held_bytes -= self._kept.pop(key).nbytes

    def clear(self) -> None:
        """Keep nothing: the memory is needed."""
        self._kept.clear()
        self.held_bytes = 0

    def _find(self, group: GroupRun, named: Mapping[_Key, MaskStream]) -> MaskStream:
        key = _key(group)
        assert key is not None, "a group without a name is computed"
        if key in named:
            return named[key]
        self._kept.move_to_end(key)
        return self._kept[key]

    def _put(self, key: _Key, stream: MaskStream) -> None:
        if stream.nbytes > self._limit_bytes:
            return
        self._kept[key] = stream
        self.held_bytes += stream.nbytes
        while self.held_bytes > self._limit_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= oldest.nbytes


def apart(stream: MaskStream) -> list[MaskStream]:
    """The groups of a batch's stream one by one, each with memory of its own: the reverse of `MaskStream.joined`."""
    prompts, inputs = stream.layout.halves(stream.tokens)
    sizes = stream.layout.group_sizes
    return [_alone(stream, *halves) for halves in zip(prompts.split(sizes), inputs.split(1), strict=True)]


def _alone(stream: MaskStream, prompts: Tensor, inputs: Tensor) -> MaskStream:
    layout = replace(stream.layout, group_sizes=(len(prompts),))
    return MaskStream(layout.flat(prompts, inputs), layout)


def _key(group: GroupRun) -> _Key | None:
    return None if group.prompt is None else (group.prompt, group.embedding_type)
