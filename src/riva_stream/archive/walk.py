"""The walk over a tar stream: an explicit state machine that is fed blocks of any size and never reads by itself."""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from riva_stream.archive.extensions import Extensions, place_of
from riva_stream.archive.policy import show
from riva_stream.archive.sparse import MapReader, check_count, check_map, old_gnu_entries
from riva_stream.archive.tar import (
    BLOCK,
    Entry,
    decode,
    is_unknown,
    kind_of,
    looks_like_tar,
    parse_header,
    stored_size,
)
from riva_stream.archive.zeros import ZEROS, is_zero
from riva_stream.errors import ArchiveError, ArchiveFault

if TYPE_CHECKING:
    from riva_stream.archive.extensions import Described
    from riva_stream.archive.sparse import Segment
    from riva_stream.archive.tar import Header, Sink

__all__ = ["Walk"]


class _State(Enum):
    HEADER = auto()
    EXTENSION = auto()  # the body of a pax header or of a GNU long name
    OLD_MAP = auto()  # more blocks of an old GNU sparse map
    NEW_MAP = auto()  # the map of a pax 1.0 sparse member
    DATA = auto()
    SKIP = auto()
    ONE_ZERO = auto()
    ENDED = auto()


class Walk:
    """Reads one tar stream and tells a :class:`~riva_stream.archive.tar.Sink` what is in it.

    Args:
        sink: who is told.
        header_bytes: most bytes that are kept of extended headers, or of a sparse map, for one member.
        allow_missing_end: take a stream without an end-of-archive block, as GNU tar does.
    """

    def __init__(self, sink: Sink, *, header_bytes: int, allow_missing_end: bool = False) -> None:
        self._sink = sink
        self._header_bytes = header_bytes
        self._allow_missing_end = allow_missing_end
        self._state = _State.HEADER
        self._view = memoryview(b"")
        self._at = 0  # offset in the stream of the next byte of the view
        self._partial = bytearray()  # the block that is being gathered
        self._index = 0
        self._name = ""
        self._place = ""
        self._entry: Entry | None = None
        self._stored = 0
        self._extensions = Extensions(header_bytes)
        self._segments: deque[Segment] = deque()
        self._map: list[Segment] = []
        self._map_1_0: MapReader | None = None
        self._written = self._hole = self._data = self._skip = 0
        self._trailing = 0
        self._trailing_zero = True

    @property
    def hungry(self) -> bool:
        """Whether everything fed has been walked over."""
        return not self._view and not self._hole

    def feed(self, block: bytes | memoryview) -> None:
        """Hand over the next bytes of the stream; only when hungry. Slices of them go to the sink uncopied."""
        self._view = memoryview(block)

    def walk(self, budget: int) -> int:
        """Go on until what was fed is used up, or about ``budget`` bytes of it were, holes counted; returns them."""
        used = 0
        while used < budget and not self.hungry:
            state = self._state
            if state is _State.DATA:
                used += self._on_data(budget - used)
            elif state is _State.SKIP:
                used += self._on_skip()
            elif state is _State.EXTENSION:
                used += self._on_extension()
            elif state is _State.ENDED:
                used += self._on_trailing()
            else:
                used += self._on_block(state)
        return used

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _advance(self, count: int) -> memoryview:
        taken = self._view[:count]
        self._view = self._view[count:]
        self._at += count
        return taken

    def _on_block(self, state: _State) -> int:
        """Gather a whole block, then act on it."""
        taken = self._advance(min(BLOCK - len(self._partial), len(self._view)))
        self._partial += taken
        if len(self._partial) == BLOCK:
            block = bytes(self._partial)
            self._partial.clear()
            if state is _State.HEADER:
                self._on_header(block)
            elif state is _State.OLD_MAP:
                self._on_old_map(block)
            elif state is _State.NEW_MAP:
                self._on_new_map(block)
            else:
                self._on_second_block(block)
        return len(taken)

    def _on_data(self, budget: int) -> int:
        if self._hole:
            count = min(self._hole, budget, len(ZEROS))
            self._hole -= count
            self._sink.hole(count)
            self._sink.data(ZEROS[:count])
        else:
            count = min(self._data, len(self._view))
            self._data -= count
            self._sink.data(self._advance(count))
        self._written += count
        if not self._hole and not self._data:
            self._next_segment()
        return count

    def _next_segment(self) -> None:
        if self._segments:
            offset, self._data = self._segments.popleft()
            self._hole = offset - self._written
        elif self._entry and self._written < self._entry.size:
            self._hole = self._entry.size - self._written
        else:
            self._sink.end()
            self._to_skip(-self._stored % BLOCK)

    def _on_skip(self) -> int:
        count = min(self._skip, len(self._view))
        self._advance(count)
        self._skip -= count
        if not self._skip:
            self._state = _State.HEADER
        return count

    def _to_skip(self, count: int) -> None:
        self._skip = count
        self._state = _State.SKIP if count else _State.HEADER

    def _on_trailing(self) -> int:
        rest = self._advance(len(self._view))
        self._trailing += len(rest)
        self._trailing_zero = self._trailing_zero and is_zero(rest)
        return len(rest)

    # -- headers -------------------------------------------------------------------------------------------------

    def _on_header(self, block: bytes) -> None:
        at = self._at - BLOCK
        header = parse_header(block, at, self._name)
        if header is None:
            if self._extensions.pending:
                raise ArchiveError(
                    f"the tar stream ends at byte {at}, right behind an extended header without a member",
                    fault=ArchiveFault.MALFORMED,
                )
            self._state = _State.ONE_ZERO
        elif header.typeflag in b"LKxXg":
            self._extensions.announce(header, at)
            self._state = _State.EXTENSION
            if not header.size:
                self._on_extension()
        else:
            self._on_member(block, header, at)

    def _on_extension(self) -> int:
        taken = self._advance(min(self._extensions.left, len(self._view)))
        if self._extensions.feed(taken):
            self._to_skip(-self._at % BLOCK)  # headers begin at whole blocks
        return len(taken)

    def _on_member(self, block: bytes, header: Header, at: int) -> None:
        described = self._extensions.apply(block, header, at)
        self._name = decode(described.name)
        kind = kind_of(header, described.name)
        self._stored = stored_size(header, described.stored)
        place = place_of(self._name, at)
        if kind == "directory" and self._stored and header.typeflag != b"D":
            raise ArchiveError(
                f"{place} has a directory's name, yet {self._stored} bytes of data",
                fault=ArchiveFault.AMBIGUOUS,
            )
        if is_unknown(header):
            self._sink.warn(f"{place}: unknown type {header.typeflag!r}, taken for a file as GNU tar does")
        size = described.real if kind == "file" else 0
        whole = None if described.sparse or described.more else self._at
        entry = Entry(self._name, kind, size, self._index, at, decode(described.link), whole)
        self._index += 1
        self._entry = entry if self._sink.entry(entry) else None
        self._begin_data(described, place)

    def _begin_data(self, described: Described, place: str) -> None:
        self._place = place
        self._written = self._hole = self._data = 0
        self._segments.clear()
        if described.more:
            self._map = described.segments or []
            self._state = _State.OLD_MAP
        elif self._entry is None:
            self._to_skip(self._stored + -self._stored % BLOCK)
        elif not described.sparse:
            self._data = self._stored
            self._state = _State.DATA
            if not self._data:
                self._next_segment()
        elif described.segments is None:
            self._map_1_0 = MapReader(self._header_bytes, place)
            self._state = _State.NEW_MAP
        else:
            self._use_map(described.segments, self._stored)

    # -- sparse maps ---------------------------------------------------------------------------------------------

    def _use_map(self, segments: list[Segment], stored: int) -> None:
        if self._entry is None:
            self._to_skip(self._stored + -self._stored % BLOCK)
            return
        self._segments.extend(check_map(segments, self._entry.size, stored, self._place))
        self._state = _State.DATA
        self._next_segment()

    def _on_old_map(self, block: bytes) -> None:
        segments, ended = old_gnu_entries(block, 0, 21, self._place)
        self._map += segments
        check_count(len(self._map), self._header_bytes, self._place)
        if not block[504]:
            self._use_map(self._map, self._stored)
            self._map = []
        elif ended:
            raise ArchiveError(
                f"{self._place}: its sparse map has ended, yet says that it goes on",
                fault=ArchiveFault.MALFORMED,
            )

    def _on_new_map(self, block: bytes) -> None:
        reader = self._map_1_0
        if reader is not None and reader.feed(block):
            self._use_map(reader.segments(), self._stored - reader.size)
            self._map_1_0 = None

    # -- the end -------------------------------------------------------------------------------------------------

    def _on_second_block(self, block: bytes) -> None:
        if any(block):
            where = self._at - 2 * BLOCK
            if looks_like_tar(block):
                raise ArchiveError(
                    f"a lone block of zeros at byte {where} of the tar stream, after {show(self._name)}, and then another "
                    "header: GNU tar would stop there without an error",
                    hint="pack the files in one archive (tars cannot be joined by cat), or upload the one that is meant",
                    fault=ArchiveFault.AMBIGUOUS,
                )
            self._sink.warn(f"a lone block of zeros at byte {where} ends the archive; there should be two")
            self._trailing += BLOCK
            self._trailing_zero = False
        self._state = _State.ENDED

    def finish(self) -> None:
        """The stream has no more bytes.

        Raises:
            ArchiveError: it is cut: inside a member or a header, or without an end-of-archive block.
        """
        at = self._at
        after = f", after member {show(self._name)}" if self._name else ""
        if self._state is _State.ENDED:
            if not self._trailing_zero:
                self._sink.warn(
                    f"{self._trailing} bytes follow the end of the archive and are ignored, as GNU tar does"
                )
            return
        if self._state is _State.ONE_ZERO:
            if any(self._partial):
                raise ArchiveError(
                    f"the tar stream is cut at byte {at}, inside a block{after}", fault=ArchiveFault.CUT
                )
            self._sink.warn(f"only one block of zeros ends the archive (at byte {at}); there should be two")
            return
        if self._state is _State.HEADER and not any(self._partial) and not self._extensions.pending:
            if not self._allow_missing_end:
                raise ArchiveError(
                    f"the tar stream stops at byte {at}{after} without an end-of-archive block: that is how a cut tar "
                    "looks",
                    hint="upload the archive again, the whole of it; if it was written so, pass --allow-missing-end",
                    fault=ArchiveFault.CUT,
                )
            self._sink.warn(f"no end-of-archive block: the tar stream just stops at byte {at}{after}")
            return
        lacking = self._data + sum(segment.length for segment in self._segments)
        inside = {
            _State.DATA: f"inside member {show(self._name)}, which lacks {lacking} bytes",
            _State.SKIP: f"inside member {show(self._name)} or its padding, which lacks {self._skip} bytes",
            _State.HEADER: f"inside a header{after}",
        }.get(self._state, f"inside the headers of a member{after}")
        raise ArchiveError(f"the tar stream is cut at byte {at}, {inside}", fault=ArchiveFault.CUT)
