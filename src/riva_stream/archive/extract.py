"""The extractor: pieces of an archive in, members out. It does no I/O and never waits.

::

    push(piece) ─► decoder (gzip | zstd | plain) ─► tar walk ─► policy ─► events ◄─ pull(max_output)
                    headers, trailers, checksums     headers     names      Start, Data..., End
                                                                 limits

The caller sets the pace: it pushes a piece when ``needs_input`` says so, and otherwise pulls, each time at most about
``max_output`` expanded bytes. So a piece that expands a thousandfold costs no more memory than any other. Held between
two calls: the piece, one inflated block, and records bounded by ``Limits``.

All of that can be saved between two pulls (``snapshot``), and another process can resume there (``restore``): it reads
the archive from ``Snapshot.offset`` on, decodes up to where the first one was, and hands over what follows. The decoder
can resume at few places only; ``mark`` requests the next one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, cast

from pydantic import Field, TypeAdapter

from riva_stream.archive.decoder import Decoder, Place
from riva_stream.archive.events import ArchiveSummary, Event, StagedMember
from riva_stream.archive.formats import FORMATS, HEAD, AnyPlace, Format, detect
from riva_stream.archive.policy import Limits, Member, Policy
from riva_stream.archive.selection import Found, Selection, SelectionState
from riva_stream.archive.snapshot import MOST_STATE, Count, InvalidSnapshotError, Strict, require
from riva_stream.archive.sniff import DEEP, not_a_tar, sniff_layers
from riva_stream.archive.tar import BLOCK, begins_tar
from riva_stream.archive.text import show
from riva_stream.archive.walk import Walk, WalkState
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import raise_option
from riva_stream.readback import UnreadableError, read_back

__all__ = ["Extractor", "Snapshot"]

_DEFAULT_LIMITS = Limits()
_MOST_SNAPSHOT = 1 << 20
"""Maximum bytes of a snapshot. Kept names take half of it, a thousand models a quarter; a larger archive has none."""
_FRAME = 64
"""Bytes of it around its two parts."""
_MOST_VALUES = 1 << 17
"""Maximum number of values, containers included, in a snapshot that is read: none that was taken has more."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an extractor after a pull; :meth:`Extractor.restore` resumes there."""

    data: bytes
    """JSON. Store it unchanged, and store its digest elsewhere: it does not show by itself whether it was changed."""
    offset: int
    """Offset in the archive of the byte to push first."""
    repeated: int
    """Bytes that are decoded again from there before anything is handed over."""
    member: Member | None
    """The member that has begun and is not complete."""
    handed_over: int
    """Bytes of it that were handed over; 0 without one."""
    consumed: int
    """Bytes of the archive that had been processed."""
    staged: tuple[StagedMember, ...]
    """The members that are complete."""


@dataclass(eq=False, slots=True)
class _State(Strict):
    """A snapshot, apart from what was found."""

    options: str
    """Digest of the extractor's options: a restored one must be made with the same."""
    place: Annotated[AnyPlace, Field(discriminator="format")]
    walked: Count
    """Bytes of the tar stream that were walked over."""
    consumed: Count
    """Bytes of the archive that had been processed: the ratio limit compares all output, holes included, with them."""
    walk: WalkState
    selection: SelectionState


@dataclass(eq=False, slots=True)
class _Document(Strict):
    version: Literal[2]
    state: _State
    found: Found


def _options_digest(include: Sequence[str], limits: Limits, *, allow_missing_end: bool) -> str:
    """The options as a digest: the order of patterns does not matter, and JSON cannot express an infinite limit."""
    options = (sorted(set(include)), limits, allow_missing_end)
    return hashlib.sha256(repr(options).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class Extractor:
    """Reads one archive exactly, or refuses it.

    Args:
        include: shell patterns of the members to stage; see :class:`~riva_stream.archive.policy.Policy`.
        limits: what the archive may demand.
        allow_missing_end: accept a tar without an end-of-archive block, as GNU tar does.

    Every method but the constructor may raise :class:`~riva_stream.errors.ArchiveError`; after that, every call raises
    the same error again.
    """

    def __init__(
        self,
        *,
        include: Sequence[str] = ("*.riva",),
        limits: Limits = _DEFAULT_LIMITS,
        allow_missing_end: bool = False,
    ) -> None:
        self._limits = limits
        self._include, self._allow_missing_end = include, allow_missing_end
        self._options = _options_digest(include, limits, allow_missing_end=allow_missing_end)
        self._selection = Selection(include, limits)
        self._walk = Walk(
            self._selection, header_bytes=limits.header_bytes, allow_missing_end=allow_missing_end
        )
        self._head = b""
        self._decoder: Decoder | None = None
        self._error: ArchiveError | None = None
        self._expanded = self._repeated = self._consumed_before = 0
        self._outgrown = False  # what was found is too large for a snapshot, and only grows
        self._inner: bytes | None = b""  # the first bytes inside, until they are known to begin a tar
        self._marked = False
        self._place: Place | None = None  # of the decoder, when all its output had been walked over

    @property
    def needs_input(self) -> bool:
        """Whether everything pushed has been pulled: push the next piece, or finish."""
        return self._walk.needs_input and (self._decoder is None or self._decoder.needs_input)

    @property
    def is_plain(self) -> bool:
        """Whether the tar is not compressed, so that offsets in it are offsets in the source."""
        return self._decoder is not None and self._decoder.container == "tar"

    @property
    def consumed(self) -> int:
        """Bytes of the archive that have been processed."""
        return max(self._decoder.consumed, self._consumed_before) if self._decoder else 0

    @property
    def expanded(self) -> int:
        """Bytes produced so far: of the tar stream, and of holes that were filled."""
        return self._expanded + self._selection.state.holes

    @property
    def window(self) -> int:
        """Bytes held for inflating that are not accounted for elsewhere: the largest zstd window so far."""
        return self._decoder.window if self._decoder else 0

    def push(self, piece: bytes | memoryview) -> None:
        """Pass in the next piece of the archive, of any size; it must stay unchanged until it is used up.

        Raises:
            RuntimeError: the last piece has not been pulled to its end.
            ArchiveError: the source is not an archive in a supported format.
        """
        with self._usable():
            if not self.needs_input:
                raise RuntimeError("push() before the last piece was pulled to its end")
            decoder = self._decoder
            if decoder is None:
                head = self._head + bytes(piece[: HEAD - len(self._head)])
                found = detect(head)
                if found is None:
                    self._head = head
                    return
                decoder = self._open(found)
                if self._head:
                    piece, self._head = self._head + bytes(piece), b""
            decoder.push(piece)

    def pull(self, max_output: int, *, until: int = 0) -> list[Event]:
        """Process what was pushed, for about ``max_output`` bytes of output; call again until ``needs_input``.

        Args:
            max_output: bytes.
            until: stop after that many bytes of the open member, or of the next one, so that a snapshot can be taken
                there; 0: do not stop. The next call continues.

        Raises:
            ArchiveError: the archive is damaged or refused. Events of this call are lost; nothing handed over before
                may be made visible.
        """
        if max_output < 1:
            raise ValueError(f"max_output must be at least 1, not {max_output}")
        decoder, walk = self._decoder, self._walk
        done = 0
        with self._usable():
            # Half a block is as good as a whole one: requesting the rest would only produce small slices.
            while decoder and done < (max_output + 1) // 2:
                if walk.needs_input:
                    self._place = decoder.place
                    if decoder.needs_input:
                        break
                    block = decoder.pull(max_output - done)
                    self._expanded += len(block)
                    if self._repeated:
                        repeated = min(self._repeated, len(block))
                        self._repeated -= repeated
                        done += repeated
                        block = memoryview(block)[repeated:]
                    walk.feed(self._look_inside(block))
                written = walk.state.written
                done += walk.walk(max_output - done, until)
                self._judge_size()
                if until and written != walk.state.written == until:
                    break
        return self._selection.take()

    def finish(self) -> ArchiveSummary:
        """Finish, when the source has no more bytes and all that was pushed has been pulled.

        Raises:
            RuntimeError: something pushed has not been pulled yet.
            ArchiveError: the archive is truncated, or no member matches ``include``.
        """
        with self._usable():
            if not self.needs_input:
                raise RuntimeError("finish() before the last piece was pulled to its end")
            decoder = self._decoder
            if decoder is None:
                found = detect(self._head, final=True)
                decoder = self._open(cast("Format", found))  # a final look always finds one
                decoder.push(self._head)
                while not self.needs_input:
                    self.pull(len(self._head))
            decoder.finish()
            return self._finish(decoder)

    def _finish(self, decoder: Decoder) -> ArchiveSummary:
        if self._repeated:
            raise ArchiveError(
                f"the archive ends {self._repeated} bytes of tar stream before the offset of the snapshot",
                fault=ArchiveFault.CUT,
            )
        if self._inner:
            self._end_of_a_short_one()
        self._walk.finish()
        selection, found = self._selection, self._selection.found
        if not found.staged:
            raise selection.nothing_matched()
        return ArchiveSummary(
            container=decoder.container,
            checksum=decoder.checksum,
            members=selection.state.entries,
            listing=tuple(found.listing),
            selected=tuple(found.staged),
            left_out=tuple(found.left_out),
            warnings=selection.warnings,
            expanded_bytes=self.expanded,
        )

    # -- snapshots -----------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Request the next place from which reading can resume; later snapshots start from it.

        It costs a few milliseconds where the start of a deflate block must be found, and nothing elsewhere; if none
        begins in the next MiB of the archive, the last place stays. Without a mark, snapshots start from the latest
        natural place: a member of a gzip, a frame of zstd, any byte of a plain tar.
        """
        if self._decoder is None:
            self._marked = True
        else:
            self._decoder.mark()

    def snapshot(self) -> Snapshot | None:
        """Save the state after the last pull, once all its events have been handed over.

        None: not possible here, ask again after the next pull. That is so before the tar has begun, and within headers
        or a sparse map too large to be kept. Once too much was found for a snapshot, there are none any more.
        """
        decoder, walk, selection = self._decoder, self._walk, self._selection
        if decoder is None or self._inner is not None or self._repeated or self._error or self._outgrown:
            return None
        place = decoder.place if walk.needs_input else self._place
        state = _State(
            self._options,
            cast("AnyPlace", place),
            self._expanded - walk.pending,
            self.consumed,
            walk.state,
            selection.state,
        )
        written = _adapter(_State).dump_json(state)
        found = _adapter(Found).dump_json(selection.found)
        self._outgrown = len(found) > _MOST_SNAPSHOT - MOST_STATE - _FRAME
        if self._outgrown or len(written) > MOST_STATE:
            return None
        return self._described(b'{"version":2,"state":' + written + b',"found":' + found + b"}", state)

    def _described(self, data: bytes, state: _State) -> Snapshot:
        return Snapshot(
            data,
            state.place.offset,
            state.walked - state.place.produced,
            state.selection.member,
            state.walk.written if state.selection.member else 0,
            state.consumed,
            tuple(self._selection.found.staged),
        )

    @classmethod
    def restore(
        cls,
        data: bytes,
        *,
        include: Sequence[str] = ("*.riva",),
        limits: Limits = _DEFAULT_LIMITS,
        allow_missing_end: bool = False,
    ) -> tuple[Extractor, Snapshot]:
        """Resume where a snapshot of the same archive was taken, with the same options.

        Push the archive from ``Snapshot.offset`` on; events begin with what follows the snapshot. The caller must make
        sure that it is the same archive, and check the digest of ``data``.

        Raises:
            InvalidSnapshotError: it is damaged, forged, of another version, or was taken with other options, or this
                host cannot resume at its place. That says nothing about the archive.
        """
        try:
            document: _Document = read_back(
                _adapter(_Document).validate_json, data, size=_MOST_SNAPSHOT, values=_MOST_VALUES
            )
        except UnreadableError as error:
            raise InvalidSnapshotError(f"not a snapshot of this version: {error}") from None
        extractor = cls(include=include, limits=limits, allow_missing_end=allow_missing_end)
        return extractor, extractor._restore(data, document)

    def _restore(self, data: bytes, document: _Document) -> Snapshot:
        state, limits = document.state, self._limits
        require(state.options == self._options, "a snapshot that was taken with other options")
        state.walk.check(limits.header_bytes)
        state.selection.check(state.walk, limits)
        document.found.check(state.selection, Policy(self._include, limits, {}), limits)
        require(state.place.produced <= state.walked <= limits.expanded_bytes, "the place of the decoder")
        require(state.walk.at == state.walked, "the place of the tar walk")
        require(state.place.offset <= state.consumed, "what was read of the archive")
        self._open(next(f for f in FORMATS if f.name == state.place.format), state.place)
        self._inner = None
        self._place = state.place
        self._expanded = state.place.produced
        # Holes filled beyond the place of the decoder belong to bytes that it has not yet reached again.
        self._consumed_before = state.consumed
        self._repeated = state.walked - state.place.produced
        self._selection = Selection(self._include, limits, state.selection, document.found)
        self._walk = Walk(
            self._selection,
            header_bytes=limits.header_bytes,
            allow_missing_end=self._allow_missing_end,
            state=state.walk,
        )
        return self._described(data, state)

    # -- the layers ----------------------------------------------------------------------------------------------

    def _open(self, found: Format, place: AnyPlace | None = None) -> Decoder:
        self._decoder = decoder = found.open(self._limits, place)
        if found.name == "tar":
            self._inner = None
        if self._marked:
            decoder.mark()
        return decoder

    def _look_inside(self, block: bytes | memoryview, *, final: bool = False) -> bytes | memoryview:
        """Hold back the first bytes inside a gzip or zstd until they are known to begin a tar.

        Raises:
            ArchiveError: they do not; the error says what they are.
        """
        if self._inner is None or self._decoder is None:
            return block
        head = self._inner + bytes(block) if self._inner else block
        if len(head) >= BLOCK or final:
            start = bytes(head[:DEEP])
            if _begins_a_tar(start[:BLOCK]):
                self._inner = None
                return head
            if len(start) >= DEEP or final:
                raise not_a_tar(start, (self._decoder.container,))
        self._inner = bytes(head)
        return b""

    def _end_of_a_short_one(self) -> None:
        self._walk.feed(self._look_inside(b"", final=True))
        while not self._walk.needs_input:
            self._walk.walk(BLOCK)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Keep refusing an archive that was refused once."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except ArchiveError as error:
            self._error = error
            self._selection.take()
            raise

    def _judge_size(self) -> None:
        total, consumed = self.expanded, self.consumed
        if total > self._limits.expanded_bytes:
            raise ArchiveError(
                f"the archive expands to more than {self._limits.expanded_bytes} bytes",
                hint=raise_option("max_expanded"),
                fault=ArchiveFault.LIMIT,
            )
        if total >= self._limits.ratio_floor and total > self._limits.ratio * consumed:
            last = self._selection.state.last
            name = f", at member {show(last)}" if last else ""
            raise ArchiveError(
                f"the first {consumed} bytes of the archive expand to {total} or more{name}: over {self._limits.ratio:g} "
                "times, as a decompression bomb would",
                hint=raise_option("max_ratio"),
                fault=ArchiveFault.LIMIT,
            )


def _begins_a_tar(first: bytes) -> bool:
    """Whether a tar begins here, even with a damaged, cut or zero first header: the walk gives a better error."""
    return begins_tar(first) or not any(first) or (len(first) < BLOCK and sniff_layers(first) == ("unknown",))
