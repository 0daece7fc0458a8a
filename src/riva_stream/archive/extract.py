"""The extractor: pieces of an archive in, members out. It does no I/O and never waits.

::

    push(piece) ─► decoder (gzip | zstd | plain) ─► tar walk ─► policy ─► events ◄─ pull(max_output)
                    headers, trailers, checksums     headers     names      Start, Data..., End
                                                                 limits

The caller owns the pace: it pushes a piece when ``needs_input`` says so, and otherwise pulls, each time at most about
``max_output`` expanded bytes. So a piece that expands a thousandfold costs no more memory than any other. What is
held between two calls: the piece, one inflated block, and records that ``Limits`` bounds.

All of that can be written down between two pulls (``snapshot``), and another process can begin there (``restore``): it
reads the archive from ``Snapshot.offset`` on, decodes up to where the first one was, and hands over what comes then. The
decoder can begin at few places only; ``mark`` asks it for the next one.
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
from riva_stream.archive.tar import BLOCK, says_tar
from riva_stream.archive.text import show
from riva_stream.archive.walk import Walk, WalkState
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.readback import UnreadableError, read_back

__all__ = ["Extractor", "Snapshot"]

_DEFAULT_LIMITS = Limits()
_MOST_SNAPSHOT = 1 << 20
"""Bytes of a snapshot. The names that are kept have half of that, and a thousand models a quarter; an archive of more has none."""
_FRAME = 64
"""Bytes of it around its two parts."""
_MOST_VALUES = 1 << 17
"""Numbers, texts and what holds them in a snapshot that is read: no more fit into one that was taken."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where an extractor was after a pull; :meth:`Extractor.restore` begins there."""

    data: bytes
    """JSON. Keep it as it is, and keep its digest elsewhere: nothing in it tells whether somebody has changed it."""
    offset: int
    """Byte of the archive that has to be pushed first."""
    repeated: int
    """Bytes that are decoded once more from there on before anything is handed over."""
    member: Member | None
    """That was begun and is not complete."""
    handed_over: int
    """Bytes of it that were; 0 without one."""
    consumed: int
    """Bytes of the archive that had been worked on."""
    staged: tuple[StagedMember, ...]
    """That are complete."""


@dataclass(eq=False, slots=True)
class _State(Strict):
    """A snapshot, apart from what was found."""

    options: str
    """Tells those that the extractor was made with: another one has to be made with the same."""
    place: Annotated[AnyPlace, Field(discriminator="format")]
    walked: Count
    """Bytes of the tar stream that were walked over."""
    consumed: Count
    """Bytes of the archive that had been worked on: all that came out is held against them, holes included."""
    walk: WalkState
    selection: SelectionState


@dataclass(eq=False, slots=True)
class _Document(Strict):
    version: Literal[1]
    state: _State
    found: Found


def _options_digest(include: Sequence[str], limits: Limits, *, allow_missing_end: bool) -> str:
    """The options as a digest: the order of patterns means nothing, and JSON has no infinity for a limit."""
    options = (sorted(set(include)), limits, allow_missing_end)
    return hashlib.sha256(repr(options).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class Extractor:
    """Reads one archive exactly, or refuses it.

    Args:
        include: shell patterns of the members to stage; see :class:`~riva_stream.archive.policy.Policy`.
        limits: what the archive may ask of us.
        allow_missing_end: take a tar without an end-of-archive block, as GNU tar does.

    Every method but the constructor may raise :class:`~riva_stream.errors.ArchiveError`; after that it raises the same
    one again, whatever is called.
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
        self._outgrown = False  # what was found is too much for a snapshot, and grows
        self._inner: bytes | None = b""  # the first bytes inside, until it is sure that they begin a tar
        self._marked = False
        self._place: Place | None = None  # of the decoder, when all it had made was walked over

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
        """Bytes of the archive that have been worked on."""
        return max(self._decoder.consumed, self._consumed_before) if self._decoder else 0

    @property
    def expanded(self) -> int:
        """Bytes that came out so far: of tar stream, and of holes that were filled."""
        return self._expanded + self._selection.state.holes

    @property
    def window(self) -> int:
        """Bytes that inflating holds besides, of which nothing else tells: the largest window of zstd so far."""
        return self._decoder.window if self._decoder else 0

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive, of any size; it has to stay unchanged until it is used up.

        Raises:
            RuntimeError: the last piece has not been pulled to its end.
            ArchiveError: the source is no archive that is read.
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
        """Work on what was pushed, for about ``max_output`` bytes of output; call again until ``needs_input``.

        Args:
            max_output: bytes.
            until: stop behind that many bytes of the open member, or of the next one, so that a snapshot can be taken
                there; 0 is nowhere. The next call goes on.

        Raises:
            ArchiveError: the archive is damaged or refused. Events of this call are lost; none of what was handed over
                before may be made visible.
        """
        if max_output < 1:
            raise ValueError(f"max_output must be at least 1, not {max_output}")
        decoder, walk = self._decoder, self._walk
        done = 0
        with self._usable():
            # Half a block is as good as a whole one: asking for the rest would only make small slices.
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
        """The source has no more bytes, and all that was pushed has been pulled.

        Raises:
            RuntimeError: something pushed has not been pulled yet.
            ArchiveError: the archive is cut, or no member of it matches ``include``.
        """
        with self._usable():
            if not self.needs_input:
                raise RuntimeError("finish() before the last piece was pulled to its end")
            decoder = self._decoder
            if decoder is None:
                found = detect(self._head, final=True)
                decoder = self._open(cast("Format", found))  # a final look always decides
                decoder.push(self._head)
                while not self.needs_input:
                    self.pull(len(self._head))
            decoder.finish()
            return self._finish(decoder)

    def _finish(self, decoder: Decoder) -> ArchiveSummary:
        if self._repeated:
            raise ArchiveError(
                f"the archive ends {self._repeated} bytes of tar stream before the place that a snapshot was taken at",
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
        """Ask for the next place from which the archive could be read on; snapshots from there on begin at it.

        It costs a few milliseconds where a deflate block has to be found, and nothing elsewhere; where none begins in the
        next MiB of the archive, the last place stays. Without a mark they begin at
        the latest place that there is anyway: a member of a gzip, a frame of zstd, any byte of a plain tar.
        """
        if self._decoder is None:
            self._marked = True
        else:
            self._decoder.mark()

    def snapshot(self) -> Snapshot | None:
        """Write down where everything is after the last pull, its events all being handed over.

        None: not here, ask again after the next pull. That is so before the tar has begun, and within headers or a sparse
        map that are too large to be kept. Once more was found than a snapshot has room for, there is none any more.
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
        return self._described(b'{"version":1,"state":' + written + b',"found":' + found + b"}", state)

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
        """Begin where a snapshot of the same archive was taken, with the same options.

        Push the archive from ``Snapshot.offset`` on; events begin with what comes behind the snapshot. Whether it is the same
        archive is for the caller to see to, and so is the digest of ``data``.

        Raises:
            InvalidSnapshotError: it is damaged, made up, of another version, or was taken with other options, or nothing
                here can begin at its place. That says nothing of the archive.
        """
        try:
            document: _Document = read_back(
                _adapter(_Document).validate_json, data, size=_MOST_SNAPSHOT, values=_MOST_VALUES
            )
        except UnreadableError as error:
            raise InvalidSnapshotError(f"no snapshot of this version: {error}") from None
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
        # Holes that were made up behind the place of the decoder go with bytes that it has not come to again yet.
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
        """Hold back the first bytes inside a gzip or zstd until it is sure that they begin a tar.

        Raises:
            ArchiveError: they do not; it says what they are.
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
        """Let an archive that was refused once be refused for ever."""
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
                hint="if that is how the archive should be, raise --max-expanded",
                fault=ArchiveFault.LIMIT,
            )
        if total >= self._limits.ratio_floor and total > self._limits.ratio * consumed:
            last = self._selection.state.last
            name = f", at member {show(last)}" if last else ""
            raise ArchiveError(
                f"the first {consumed} bytes of the archive expand to {total} or more{name}: over {self._limits.ratio:g} "
                "times, as a decompression bomb would",
                hint="if that is how the archive should be, raise --max-ratio",
                fault=ArchiveFault.LIMIT,
            )


def _begins_a_tar(first: bytes) -> bool:
    """Also where its first header is damaged, cut, or of zeros: the walk says more of that."""
    return says_tar(first) or not any(first) or (len(first) < BLOCK and sniff_layers(first) == ("unknown",))
