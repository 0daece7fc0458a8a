"""The walk over a tar stream: an explicit state machine that is fed blocks of any size and never reads by itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from riva_stream.archive.extensions import Described, Extensions, entry_label
from riva_stream.archive.snapshot import BOUNDED, Buffer, Count, Name, Strict, require
from riva_stream.archive.sparse import (
    MapReader,
    Segment,
    check_count,
    check_map,
    check_stored,
    in_blocks,
    old_gnu_entries,
)
from riva_stream.archive.tar import (
    BLOCK,
    Entry,
    Header,
    Sink,
    is_unknown,
    kind_of,
    looks_like_tar,
    parse_header,
    stored_size,
)
from riva_stream.archive.text import decode, show
from riva_stream.archive.zeros import ZEROS, is_zero
from riva_stream.errors import ArchiveError, ArchiveFault
from riva_stream.naming import option

__all__ = ["Step", "Walk", "WalkState"]


class Step(Enum):
    """What the next byte of the stream belongs to."""

    HEADER = "header"
    EXTENSION = "extension"  # the body of a pax header or of a GNU long name
    OLD_MAP = "old-map"  # more blocks of an old GNU sparse map
    NEW_MAP = "new-map"  # the map of a pax 1.0 sparse member
    DATA = "data"
    SKIP = "skip"
    ONE_ZERO = "one-zero"
    ENDED = "ended"


@dataclass(eq=False, slots=True)
class WalkState(Strict):
    """The whole state of the walk at one byte of the stream: another process may feed the next byte."""

    extensions: Extensions
    step: Step = Step.HEADER
    at: Count = 0
    """Offset in the stream of the next byte."""
    partial: Buffer = field(default_factory=bytearray)
    """The block that is being collected."""
    index: Count = 0
    name: Name = ""
    place: Name = ""
    entry: Entry | None = None
    """The entry whose data is wanted."""
    stored: Count = 0
    real: Count | None = None
    """Size of a sparse file, wanted or not: its map is checked against it."""
    segments: Annotated[deque[Segment], BOUNDED] = field(default_factory=deque)
    map: Annotated[list[Segment], BOUNDED] = field(default_factory=list)
    map_1_0: MapReader | None = None
    written: Count = 0
    """Bytes of the entry that were passed on, holes included."""
    hole: Count = 0
    data: Count = 0
    skip: Count = 0
    trailing: Count = 0
    trailing_zero: bool = True

    def check(self, header_bytes: int) -> None:
        """Check that the state is possible.

        Raises:
            InvalidSnapshotError: no stream leads to it.
        """
        step, entry = self.step, self.entry
        gathers = step in {Step.HEADER, Step.OLD_MAP, Step.NEW_MAP, Step.ONE_ZERO}
        require(len(self.partial) < BLOCK and (gathers or not self.partial), "the block that is gathered")
        self.extensions.limit = header_bytes
        self.extensions.check(reading=step is Step.EXTENSION)
        require(entry is None or entry.kind == "file", "the open entry")
        require(self.real is None or entry is None or self.real == entry.size, "the size of a sparse file")
        require(
            self.real is not None or step not in {Step.OLD_MAP, Step.NEW_MAP}, "the size of a sparse file"
        )
        require((self.map_1_0 is not None) == (step is Step.NEW_MAP), "the sparse map")
        if self.map_1_0 is not None:
            self.map_1_0.check(header_bytes)
        require(24 * max(len(self.map), len(self.segments)) <= header_bytes, "the length of a sparse map")
        if step is not Step.DATA:
            require(not (self.hole or self.data or self.segments), "the data that is left")
            return
        require(entry is not None, "data without an entry")
        at = self.written + self.hole + self.data
        for segment in self.segments:
            require(segment.offset >= at, "the order of the sparse map")
            at = segment.offset + segment.length
        require(entry and at <= entry.size, "the data that is left")


class Walk:
    """Reads one tar stream and tells a :class:`~riva_stream.archive.tar.Sink` what is in it.

    Args:
        sink: receives what is found.
        header_bytes: maximum bytes kept of extended headers, or of a sparse map, for one member.
        allow_missing_end: accept a stream without an end-of-archive block, as GNU tar does.
        state: the state of an earlier walk over the same stream; the sink must be in that walk's state, too.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        header_bytes: int,
        allow_missing_end: bool = False,
        state: WalkState | None = None,
    ) -> None:
        self._sink = sink
        self._header_bytes = header_bytes
        self._allow_missing_end = allow_missing_end
        self.state = WalkState(Extensions(header_bytes)) if state is None else state
        self._view = memoryview(b"")

    @property
    def needs_input(self) -> bool:
        """Whether everything fed has been walked over."""
        return not self._view and not self.state.hole

    def feed(self, block: bytes | memoryview) -> None:
        """Pass in the next bytes of the stream; only when input is needed. Slices of them go to the sink uncopied."""
        self._view = memoryview(block)

    @property
    def pending(self) -> int:
        """Bytes that were fed and not yet walked over."""
        return len(self._view)

    def walk(self, budget: int, until: int = 0) -> int:
        """Walk until the input or about ``budget`` bytes are used up, holes counted; return the bytes used.

        It also stops once ``until`` bytes of an entry have been passed on.
        """
        used = 0
        while used < budget and not self.needs_input:
            match self.state.step:
                case Step.DATA:
                    used += self._on_data(budget - used, until)
                    if self.state.written == until:
                        break
                case Step.SKIP:
                    used += self._on_skip()
                case Step.EXTENSION:
                    used += self._on_extension()
                case Step.ENDED:
                    used += self._on_trailing()
                case step:
                    used += self._on_block(step)
        return used

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _advance(self, most: int) -> memoryview:
        taken = self._view[:most]
        self._view = self._view[len(taken) :]
        self.state.at += len(taken)
        return taken

    def _on_block(self, step: Step) -> int:
        """Collect a whole block, then act on it."""
        taken = self._advance(BLOCK - len(self.state.partial))
        self.state.partial += taken
        if len(self.state.partial) == BLOCK:
            block = bytes(self.state.partial)
            self.state.partial.clear()
            match step:
                case Step.HEADER:
                    self._on_header(block)
                case Step.OLD_MAP:
                    self._on_old_map(block)
                case Step.NEW_MAP:
                    self._on_new_map(block)
                case Step.ONE_ZERO:
                    self._on_second_block(block)
        return len(taken)

    def _on_data(self, budget: int, until: int) -> int:
        most = until - self.state.written if until > self.state.written else budget + len(self._view)
        if self.state.hole:
            count = min(self.state.hole, budget, len(ZEROS), most)
            self.state.hole -= count
            self._sink.hole(count)
            self._sink.data(ZEROS[:count])
        else:
            count = min(self.state.data, len(self._view), most)
            self.state.data -= count
            self._sink.data(self._advance(count))
        self.state.written += count
        if not self.state.hole and not self.state.data:
            self._next_segment()
        return count

    def _next_segment(self) -> None:
        if self.state.segments:
            offset, self.state.data = self.state.segments.popleft()
            self.state.hole = offset - self.state.written
        elif self.state.entry and self.state.written < self.state.entry.size:
            self.state.hole = self.state.entry.size - self.state.written
        else:
            self._sink.end()
            self._to_skip(-self.state.at % BLOCK)

    def _on_skip(self) -> int:
        count = len(self._advance(self.state.skip))
        self._to_skip(self.state.skip - count)
        return count

    def _to_skip(self, count: int) -> None:
        self.state.skip = count
        self.state.step = Step.SKIP if count else Step.HEADER

    def _on_trailing(self) -> int:
        rest = self._advance(len(self._view))
        self.state.trailing += len(rest)
        self.state.trailing_zero = self.state.trailing_zero and is_zero(rest)
        return len(rest)

    # -- headers -------------------------------------------------------------------------------------------------

    def _on_header(self, block: bytes) -> None:
        at = self.state.at - BLOCK
        header = parse_header(block, at, self.state.name)
        if header is None:
            if self.state.extensions.pending:
                raise ArchiveError(
                    f"the tar stream ends at byte {at}, right after an extended header without a member",
                    fault=ArchiveFault.MALFORMED,
                )
            self.state.step = Step.ONE_ZERO
        elif header.typeflag in b"LKxXg":
            self.state.extensions.announce(header, at)
            self.state.step = Step.EXTENSION
            if not header.size:
                self._on_extension()
        else:
            self._on_member(block, header, at)

    def _on_extension(self) -> int:
        taken = self._advance(self.state.extensions.left)
        if self.state.extensions.feed(taken):
            self._to_skip(-self.state.at % BLOCK)  # headers begin at block boundaries
        return len(taken)

    def _on_member(self, block: bytes, header: Header, at: int) -> None:
        described = self.state.extensions.apply(block, header, at)
        kind = kind_of(header, described.name, sparse=described.sparse)
        self.state.name = decode(described.name if kind == "directory" else described.name.rstrip(b"/"))
        self.state.stored = stored_size(header, described.stored)
        place = entry_label(self.state.name, at)
        if kind == "directory" and self.state.stored and header.typeflag != b"D":
            raise ArchiveError(
                f"{place} has a directory's name, yet {self.state.stored} bytes of data",
                fault=ArchiveFault.AMBIGUOUS,
            )
        if is_unknown(header):
            self._sink.warn(f"{place}: unknown type {header.typeflag!r}, taken for a file as GNU tar does")
        size = described.real if kind == "file" else 0
        whole = None if described.sparse or described.more else self.state.at
        entry = Entry(self.state.name, kind, size, self.state.index, at, decode(described.link), whole)
        self.state.index += 1
        self.state.entry = entry if self._sink.entry(entry) else None
        self._begin_data(described, place)

    def _begin_data(self, described: Described, place: str) -> None:
        self.state.place = place
        self.state.real = described.real if described.sparse else None
        self.state.written = self.state.hole = self.state.data = 0
        self.state.segments.clear()
        if described.more:
            self.state.map = described.segments or []
            self.state.step = Step.OLD_MAP
        elif described.segments is None:
            self.state.map_1_0 = MapReader(self._header_bytes, place)
            self.state.step = Step.NEW_MAP
        else:
            self._use_map(described.segments, self.state.stored)

    # -- sparse maps ---------------------------------------------------------------------------------------------

    def _use_map(self, segments: list[Segment], stored: int) -> None:
        if self.state.real is not None:
            check_stored(segments, self.state.real, stored, self.state.place)
        if self.state.entry is None:
            self._to_skip(in_blocks(stored))
            return
        self.state.segments.extend(check_map(segments, self.state.entry.size, self.state.place))
        self.state.step = Step.DATA
        self._next_segment()

    def _on_old_map(self, block: bytes) -> None:
        segments, ended = old_gnu_entries(block, 0, 21, self.state.place)
        self.state.map += segments
        check_count(len(self.state.map), self._header_bytes, self.state.place)
        if not block[504]:
            self._use_map(self.state.map, self.state.stored)
            self.state.map = []
        elif ended:
            raise ArchiveError(
                f"{self.state.place}: its sparse map is marked as continued after its end",
                fault=ArchiveFault.MALFORMED,
            )

    def _on_new_map(self, block: bytes) -> None:
        reader = self.state.map_1_0
        if reader is not None and reader.feed(block):
            self._use_map(reader.segments(), self.state.stored - reader.size)
            self.state.map_1_0 = None

    # -- the end -------------------------------------------------------------------------------------------------

    def _on_second_block(self, block: bytes) -> None:
        if any(block):
            where = self.state.at - 2 * BLOCK
            if looks_like_tar(block):
                raise ArchiveError(
                    f"a lone block of zeros at byte {where} of the tar stream, after {show(self.state.name)}, and then another "
                    "header: GNU tar would stop there without an error",
                    hint="pack the files in one archive (tars cannot be joined by cat), or upload the one that is meant",
                    fault=ArchiveFault.AMBIGUOUS,
                )
            self._sink.warn(f"a lone block of zeros at byte {where} ends the archive; there should be two")
            self.state.trailing += BLOCK
            self.state.trailing_zero = False
        self.state.step = Step.ENDED

    def finish(self) -> None:
        """Note that the stream has no more bytes.

        Raises:
            ArchiveError: it is truncated: inside a member or a header, or without an end-of-archive block.
        """
        at = self.state.at
        after = f", after member {show(self.state.name)}" if self.state.name else ""
        between = not any(self.state.partial) and not self.state.extensions.pending
        if self.state.step is Step.ENDED:
            if not self.state.trailing_zero:
                self._sink.warn(
                    f"{self.state.trailing} bytes follow the end of the archive and are ignored, as GNU tar does"
                )
            return
        if self.state.step is Step.ONE_ZERO and between:
            self._sink.warn(f"only one block of zeros ends the archive (at byte {at}); there should be two")
            return
        if self.state.step is Step.HEADER and between:
            if not self._allow_missing_end:
                raise ArchiveError(
                    f"the tar stream stops at byte {at}{after} without an end-of-archive block: a truncated tar looks "
                    "the same",
                    hint=f"upload the whole archive again; if it was written like this, pass {option('allow_missing_end')}",
                    fault=ArchiveFault.CUT,
                )
            self._sink.warn(f"no end-of-archive block: the tar stream just stops at byte {at}{after}")
            return
        lacking = self.state.data + sum(segment.length for segment in self.state.segments)
        inside = {
            Step.DATA: f"inside member {show(self.state.name)}, which lacks {lacking} bytes",
            Step.SKIP: f"inside member {show(self.state.name)} or its padding, which lacks {self.state.skip} bytes",
            Step.HEADER: f"inside a header{after}",
            Step.ONE_ZERO: f"inside a block{after}",
        }.get(self.state.step, f"inside the headers of a member{after}")
        raise ArchiveError(f"the tar stream is cut at byte {at}, {inside}", fault=ArchiveFault.CUT)
