"""A look inside a member while it streams by: a ``.riva`` is itself an archive.

Nothing is unpacked and nothing is copied: of a tar only the headers are read (the data between them is skipped by
arithmetic), of a gzip only the first block is inflated. Findings are only remarks in the report, except that an
empty ``.riva`` and one of nothing but zeros are refused, since neither can be a model.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from riva_stream.archive.policy import Member
from riva_stream.archive.snapshot import Buffer, Count, Strict, require
from riva_stream.archive.sniff import describe_content
from riva_stream.archive.tar import BLOCK, Entry, Sink, looks_like_tar
from riva_stream.archive.text import shorten, show
from riva_stream.archive.walk import Step, Walk, WalkState
from riva_stream.archive.zeros import is_zero
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import option

__all__ = ["InnerFile", "Inside", "InsideReport"]

_NAMES = 200
"""Maximum number of inner names that are kept."""
_REMARKS = 5
"""Maximum number of remarks about the inner tar that are kept."""
_HEAD = 4096
"""Bytes of the member that are kept until its container is known."""
_OF_NAMES = Field(fail_fast=True, max_length=_NAMES)
_OF_REMARKS = Field(fail_fast=True, max_length=_REMARKS)

Container = Literal["tar", "gzip over tar", "gzip", "zip", "unknown"]


@dataclass(frozen=True, slots=True)
class InnerFile(Strict):
    """One file inside a member."""

    name: str
    size: Count


@dataclass(frozen=True, slots=True)
class InsideReport(Strict):
    """What a member was found to be."""

    container: Container
    files: Annotated[tuple[InnerFile, ...], _OF_NAMES] = ()
    """Of a tar: its first files; long names are shortened."""
    more_files: Count = 0
    """Number of further files."""
    warnings: Annotated[tuple[str, ...], _OF_REMARKS] = ()


@dataclass(eq=False, slots=True)
class InsideState(Strict):
    """What has been seen of a member so far: at most 4 KiB of it and 200 names."""

    head: Buffer = field(default_factory=bytearray)
    seen: Count = 0
    zero: bool = True
    container: Container | None = None
    walk: WalkState | None = None
    """Of the inner tar."""
    files: Annotated[list[InnerFile], _OF_NAMES] = field(default_factory=list)
    more: Count = 0
    warnings: Annotated[list[str], _OF_REMARKS] = field(default_factory=list)

    def check(self, member: Member, header_bytes: int) -> None:
        """Check that the state is possible.

        Raises:
            InvalidSnapshotError: no member leads to it.
        """
        require(self.seen <= member.size and len(self.head) == min(self.seen, _HEAD), "what was seen inside")
        if self.walk is None:
            return
        require(self.container == "tar", "a walk inside")
        self.walk.check(header_bytes)
        require(self.walk.entry is None and self.walk.step is not Step.DATA, "an entry inside")


class Inside(Sink):
    """Watches one member.

    Args:
        member: the member to watch.
        header_bytes: as in :class:`~riva_stream.archive.walk.Walk`.
        state: what an earlier instance has seen of it.
        names: maximum number of names of inner files to keep.
    """

    def __init__(
        self, member: Member, header_bytes: int, state: InsideState | None = None, *, names: int = _NAMES
    ) -> None:
        self._member = member
        self._names = min(names, _NAMES)
        self._header_bytes = header_bytes
        self.state = InsideState() if state is None else state
        self._walk = self._watch(self.state.walk) if self.state.walk is not None else None

    def feed(self, view: memoryview) -> None:
        """Look at the next bytes of the member."""
        self.state.seen += len(view)
        self.state.zero = self.state.zero and is_zero(view)
        if self.state.container is None:
            self.state.head += view[: _HEAD - len(self.state.head)]
            if len(self.state.head) < _HEAD and self.state.seen < self._member.size:
                return
            self.state.container = container_of(bytes(self.state.head))
            if self.state.container == "tar":
                self._walk = self._watch()
                begin = self.state.seen - len(view)
                # The head may have come in several pieces: the walk starts with those that were kept.
                self._step(memoryview(bytes(self.state.head[:begin])))
        if self._walk:
            self._step(view)

    def _watch(self, state: WalkState | None = None) -> Walk:
        walk = Walk(self, header_bytes=self._header_bytes, allow_missing_end=True, state=state)
        self.state.walk = walk.state
        return walk

    def _step(self, view: memoryview) -> None:
        walk = self._walk
        if walk is None:
            return
        try:
            walk.feed(view)
            while not walk.needs_input:
                walk.walk(len(view))
        except ArchiveError as error:
            self._stop(error)

    def _stop(self, error: ArchiveError) -> None:
        self._walk = self.state.walk = None
        self.warn(f"the tar inside could not be read to its end: {error.what}")

    def finish(self) -> InsideReport:
        """Report on the complete member.

        Raises:
            ArchiveError: it is empty, or all zeros.
        """
        name = show(self._member.name)
        model = self._member.key_name.endswith(".riva")
        if self.state.zero:  # or empty
            size = self.state.seen
            fault = f"its {size} bytes are all zero" if size else "0 bytes"
            if model:
                raise ArchiveError(
                    f"member {name} is empty ({fault}); a model must not be",
                    hint=f"check the file where the archive was made: it was already empty when it was packed; pack it again, or narrow {option('include')}",
                    fault=ArchiveFault.MEMBER,
                )
            self.warn(fault if size else "it has 0 bytes")
        if self._walk:
            try:
                self._walk.finish()
            except ArchiveError as error:
                self._stop(error)
        container = self.state.container or "unknown"
        if container == "unknown" and model:
            looks = describe_content(bytes(self.state.head))
            self.warn(f"it is not a tar, gzip or zip: {looks or 'its container is not known'}")
        return InsideReport(
            container,
            tuple(self.state.files),
            self.state.more,
            tuple(f"member {name}: {text}" for text in self.state.warnings),
        )

    # -- what the walk over the inner tar reports ----------------------------------------------------------------

    def entry(self, entry: Entry) -> bool:
        """Note a file; its data is never wanted."""
        if entry.kind == "file":
            if len(self.state.files) < self._names:
                self.state.files.append(InnerFile(shorten(entry.name), entry.size))
            else:
                self.state.more += 1
        return False

    def warn(self, text: str) -> None:
        """Keep the first few remarks about the inner tar."""
        if len(self.state.warnings) < _REMARKS:
            self.state.warnings.append(text)


def container_of(head: bytes) -> Container:
    """Determine a member's container from its first bytes (at most 4 KiB of them)."""
    if head[:2] == b"\x1f\x8b":
        try:
            start = zlib.decompressobj(wbits=31).decompress(head, 2 * BLOCK)
        except zlib.error:
            return "unknown"
        return "gzip over tar" if looks_like_tar(start[:BLOCK]) else "gzip"
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"}:
        return "zip"
    return "tar" if looks_like_tar(head[:BLOCK]) else "unknown"
