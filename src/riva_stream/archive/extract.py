"""The extractor: pieces of an archive in, members out. It does no I/O and never waits.

::

    push(piece) ─► container (gzip | zstd | plain) ─► tar walk ─► policy ─► events ◄─ pull(max_output)
                    headers, trailers, checksums       headers     names      Start, Data..., End
                                                                   limits

The caller owns the pace: it pushes a piece when ``needs_input`` says so, and otherwise pulls, each time at most about
``max_output`` expanded bytes. So a piece that expands a thousandfold costs no more memory than any other. What is
held between two calls: the piece, one inflated block, and records that ``Limits`` bounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from riva_stream.archive.detect import HEAD, ContainerName, detect
from riva_stream.archive.events import ArchiveSummary, Event
from riva_stream.archive.gzip import GzipStream
from riva_stream.archive.looks import DEEP, layers_of, not_a_tar
from riva_stream.archive.plain import PlainStream
from riva_stream.archive.policy import Limits, show
from riva_stream.archive.selection import Selection
from riva_stream.archive.tar import BLOCK, looks_like_tar
from riva_stream.archive.walk import Walk
from riva_stream.archive.zstd import ZstdStream
from riva_stream.errors import ArchiveError, ArchiveFault

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Extractor"]

_DEFAULT_LIMITS = Limits()


class _Container(Protocol):
    """The layer around the tar."""

    @property
    def checksum(self) -> str | None: ...
    @property
    def consumed(self) -> int: ...
    @property
    def needs_input(self) -> bool: ...
    def push(self, piece: bytes | memoryview) -> None: ...
    def pull(self, max_output: int) -> bytes | memoryview: ...
    def finish(self) -> None: ...


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
        self._selection = Selection(include, limits)
        self._walk = Walk(
            self._selection, header_bytes=limits.header_bytes, allow_missing_end=allow_missing_end
        )
        self._head = b""
        self._name: ContainerName | None = None
        self._container: _Container | None = None
        self._error: ArchiveError | None = None
        self._pushed = self._expanded = 0
        self._inner: bytes | None = b""  # the first bytes inside, until it is sure that they begin a tar

    @property
    def needs_input(self) -> bool:
        """Whether everything pushed has been pulled: push the next piece, or finish."""
        return self._walk.hungry and (self._container is None or self._container.needs_input)

    @property
    def is_plain(self) -> bool:
        """Whether the tar is not compressed, so that offsets in it are offsets in the source."""
        return self._name == "tar"

    @property
    def consumed(self) -> int:
        """Bytes of the archive that have been worked on."""
        return self._container.consumed if self._container else 0

    @property
    def expanded(self) -> int:
        """Bytes that came out so far: of tar stream, and of holes that were filled."""
        return self._expanded + self._selection.holes

    @property
    def window(self) -> int:
        """Bytes that inflating holds besides, of which nothing else tells: the largest window of zstd so far."""
        return self._container.window if isinstance(self._container, ZstdStream) else 0

    def push(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece of the archive, of any size; it has to stay unchanged until it is used up.

        Raises:
            RuntimeError: the last piece has not been pulled to its end.
            ArchiveError: the source is no archive that is read.
        """
        self._check_usable()
        if not self.needs_input:
            raise RuntimeError("push() before the last piece was pulled to its end")
        self._pushed += len(piece)
        if self._container is None:
            head = self._head + bytes(piece[: HEAD - len(self._head)])
            try:
                self._name = detect(head)
            except ArchiveError as error:
                raise self._failed(error) from None
            if self._name is None:
                self._head = head
                return
            self._container = self._open(self._name)
            if self._name == "tar":
                self._inner = None
            if self._head:
                piece, self._head = self._head + bytes(piece), b""
        self._container.push(piece)

    def pull(self, max_output: int) -> list[Event]:
        """Work on what was pushed, for about ``max_output`` bytes of output; call again until ``needs_input``.

        Raises:
            ArchiveError: the archive is damaged or refused. Events of this call are lost; none of what was handed over
                before may be made visible.
        """
        if max_output < 1:
            raise ValueError(f"max_output must be at least 1, not {max_output}")
        self._check_usable()
        container, walk = self._container, self._walk
        done = 0
        try:
            # Half a block is as good as a whole one: asking for the rest would only make small slices.
            while container and done < (max_output + 1) // 2:
                if walk.hungry:
                    if container.needs_input:
                        break
                    block = container.pull(max_output - done)
                    self._expanded += len(block)
                    walk.feed(self._look_inside(block))
                done += walk.walk(max_output - done)
                self._judge_size()
        except ArchiveError as error:
            raise self._failed(error) from None
        return self._selection.take()

    def finish(self) -> ArchiveSummary:
        """The source has no more bytes, and all that was pushed has been pulled.

        Raises:
            RuntimeError: something pushed has not been pulled yet.
            ArchiveError: the archive is cut, or no member of it matches ``include``.
        """
        self._check_usable()
        if not self.needs_input:
            raise RuntimeError("finish() before the last piece was pulled to its end")
        try:
            return self._finish()
        except ArchiveError as error:
            raise self._failed(error) from None

    def _finish(self) -> ArchiveSummary:
        if self._container is None or self._name is None:
            self._name = detect(self._head, final=True)
            if self._name is None:  # pragma: no cover - a final look always decides
                raise ArchiveError("the source is no archive that is read")
            self._container = self._open(self._name)
            self._inner = None if self._name == "tar" else b""
            self._container.push(self._head)
            while not self.needs_input:
                self.pull(len(self._head))
        self._container.finish()
        if self._inner:
            self._end_of_a_short_one()
        self._walk.finish()
        selection = self._selection
        if not selection.staged:
            raise selection.nothing_matched()
        return ArchiveSummary(
            container=self._name,
            checksum=self._container.checksum,
            members=selection.entries,
            listing=tuple(selection.listing),
            unlisted=selection.entries - len(selection.listing),
            selected=tuple(selection.staged),
            left_out=tuple(selection.left_out),
            warnings=selection.warnings,
            compressed_bytes=self._pushed,
            expanded_bytes=self.expanded,
        )

    def _open(self, name: ContainerName) -> _Container:
        if name == "gzip":
            return GzipStream(streams=self._limits.streams)
        if name == "zstd":
            return ZstdStream(streams=self._limits.streams, window=self._limits.zstd_window)
        return PlainStream()

    def _look_inside(self, block: bytes | memoryview, *, final: bool = False) -> bytes | memoryview:
        """Hold back the first bytes inside a gzip or zstd until it is sure that they begin a tar.

        Raises:
            ArchiveError: they do not; it says what they are.
        """
        if self._inner is None or self._name is None:
            return block
        head = self._inner + bytes(block) if self._inner else block
        if len(head) >= BLOCK or final:
            start = bytes(head[:DEEP])
            if self._begins_a_tar(start):
                self._inner = None
                return head
            if len(start) >= DEEP or final:
                raise not_a_tar(start, (self._name,))
        self._inner = bytes(head)
        return b""

    def _begins_a_tar(self, start: bytes) -> bool:
        """Also where its first header is damaged, cut, or of zeros: the walk says more of that."""
        first = start[:BLOCK]
        if looks_like_tar(first) or first[257:262] == b"ustar" or not any(first):
            return True
        return len(first) < BLOCK and layers_of(first) == ("unknown",)

    def _end_of_a_short_one(self) -> None:
        self._walk.feed(self._look_inside(b"", final=True))
        while not self._walk.hungry:
            self._walk.walk(BLOCK)

    def _failed(self, error: ArchiveError) -> ArchiveError:
        self._error = error
        self._selection.take()
        return error

    def _check_usable(self) -> None:
        if self._error is not None:
            raise self._error

    def _judge_size(self) -> None:
        total = self.expanded
        if total > self._limits.expanded_bytes:
            raise ArchiveError(
                f"the archive expands to more than {self._limits.expanded_bytes} bytes",
                hint="if that is how the archive should be, raise --max-expanded",
                fault=ArchiveFault.LIMIT,
            )
        consumed = self.consumed
        if total >= self._limits.ratio_floor and total > self._limits.ratio * consumed:
            last = self._selection.last
            name = f", at member {show(last)}" if last else ""
            raise ArchiveError(
                f"the first {consumed} bytes of the archive expand to {total} or more{name}: over {self._limits.ratio:g} "
                "times, as a decompression bomb would",
                hint="if that is how the archive should be, raise --max-ratio",
                fault=ArchiveFault.LIMIT,
            )
