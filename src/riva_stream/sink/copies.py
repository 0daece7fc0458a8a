"""Parts that the store copies from ranges of the source, and the proof that they are the bytes that were hashed.

A copy that is not proven is never completed: :meth:`~riva_stream.sink.upload.Upload.completed_parts` refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from riva_stream.errors import (
    AccessDeniedError,
    ConfigurationError,
    DigestMismatchError,
    SourceChangedError,
    Where,
)
from riva_stream.flow.buffers import Piece
from riva_stream.flow.digest import Hash, combined_crc64nvme, crc64nvme_value
from riva_stream.naming import option
from riva_stream.s3 import CopiedPart, WritableBucket
from riva_stream.s3.speed import min_throughput
from riva_stream.sink.parts import Copy, SentPart
from riva_stream.sink.upload import Upload, multipart_etag

__all__ = ["CopiedObject", "NotCopiedError", "PartCopier", "Proof", "RangeDigests", "RangesState"]

_MD5 = re.compile(r"[0-9a-f]{32}")


class Proof(StrEnum):
    """The proof that an object which the store copied holds the bytes that were hashed."""

    CRC64NVME = "crc64nvme"
    """The store's CRC64NVME of each copied part is that of the stream; Complete is given that of the whole object."""
    MULTIPART_ETAG = "multipart-etag"
    """Copied in the same parts as the source, it has the source's ETag."""
    PLAIN_ETAG = "plain-etag"
    """Copied as one part, its ETag is the source's, which is an MD5."""
    MD5 = "md5"
    """The ETag of each copied part is the MD5 of the stream there. Expensive."""

    @property
    def of_stream(self) -> str:
        """The algorithm with which the stream has to be hashed for this proof; "" for none."""
        return {Proof.CRC64NVME: "crc64nvme", Proof.MD5: "md5"}.get(self, "")


class NotCopiedError(ConfigurationError):
    """The store does not copy the source, or nothing proves that it did: the source has to be sent."""


@dataclass(frozen=True, slots=True)
class RangesState:
    """The state of the digests of ranges in the middle of their stream: plain data."""

    over: int
    """Number of complete ranges."""
    crc: int
    """CRC of the bytes so far of the next range."""


class RangeDigests:
    """One digest for each of several consecutive ranges of a stream; takes chunks like any digest.

    Args:
        sizes: bytes of each range.
        algorithm: as in :class:`~riva_stream.flow.digest.Hash`.
    """

    def __init__(self, sizes: Sequence[int], algorithm: str) -> None:
        self.values: list[str] = []
        """Digests of the complete ranges, encoded as in :class:`~riva_stream.flow.digest.Hash`."""
        self.size = 0
        self._sizes = list(sizes)
        self._algorithm = algorithm
        self._hash = Hash(algorithm)
        self._have = 0

    def snapshot(self) -> RangesState | None:
        """The state after all bytes so far, apart from the ``values``; None if the algorithm has no state."""
        crc = self._hash.crc
        return None if crc is None else RangesState(len(self.values), crc)

    def restore(self, values: Sequence[str], crc: int, size: int) -> None:
        """Continue after ``size`` bytes that have these digests.

        Raises:
            ValueError: they cannot be the digests of so many bytes.
        """
        over = sum(self._sizes[: len(values)])
        rest = self._sizes[len(values)] if len(values) < len(self._sizes) else 1
        if len(values) > len(self._sizes) or not 0 <= size - over < rest:
            raise ValueError("digests of other ranges")
        self.values, self.size, self._have = list(values), size, size - over
        self._hash.restore(crc)

    def update(self, pieces: Sequence[Piece]) -> None:
        """Process the next pieces; runs in a worker thread."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                take = view[: self._sizes[len(self.values)] - self._have]
                view = view[len(take) :]
                self._hash.update((take,))
                self._have += len(take)
                self.size += len(take)
                if self._have == self._sizes[len(self.values)]:
                    self.values.append(self._hash.text())
                    self._hash, self._have = Hash(self._algorithm), 0


@dataclass(eq=False)
class CopiedObject:
    """One object that the store copies, part by part, while the same bytes stream through here."""

    upload: Upload
    sizes: Sequence[int]
    """Bytes of its parts."""
    proof: Proof
    etag: str
    """ETag of the source."""
    crc64nvme: str = ""
    """CRC64NVME of the whole source as computed by its writer, base64; empty: that of the stream counts."""
    digests: RangeDigests | None = field(init=False)
    """Digests the stream's bytes of this object; None if the proof needs none."""

    def __post_init__(self) -> None:
        algorithm = "" if self.crc64nvme else self.proof.of_stream
        self.digests = RangeDigests(self.sizes, algorithm) if algorithm else None

    def prove(self) -> None:
        """Compare the copy with the stream, or with the source; only then may it be completed.

        Raises:
            DigestMismatchError: the store copied other bytes than were read.
            NotCopiedError: nothing proves that they are the same.
        """
        parts = self.upload.in_order
        if [part.size for part in parts] != list(self.sizes):
            raise RuntimeError("not every part was copied")
        match self.proof:
            case Proof.MULTIPART_ETAG:
                self._compare_etag(multipart_etag(parts))
            case Proof.PLAIN_ETAG:
                self._compare_etag(parts[0].etag)
            case Proof.CRC64NVME if self.crc64nvme:
                self._compare_whole(parts)
            case Proof.CRC64NVME:
                self._compare_parts([part.checksum or "" for part in parts])
            case Proof.MD5:
                self._compare_parts([part.etag if _MD5.fullmatch(part.etag) else "" for part in parts])
        self.upload.parts = {part.number: replace(part, proven=True) for part in parts}

    def _compare_etag(self, etag: str) -> None:
        if etag != self.etag:
            raise NotCopiedError(
                f"the ETag of the copy is {etag or 'not made of MD5s'}, that of the source {self.etag}: cannot tell "
                "whether they are the same",
                where=Where("UploadPartCopy", key=self.upload.key),
            )

    def _compare_whole(self, parts: Sequence[SentPart]) -> None:
        where = Where("UploadPartCopy", key=self.upload.key)
        told = [(part.crc64nvme, part.size) for part in parts if part.crc64nvme is not None]
        if len(told) != len(parts):
            raise NotCopiedError("the store does not return the crc64nvme of a copied part", where=where)
        if (copied := combined_crc64nvme(told)) != self.crc64nvme:
            raise DigestMismatchError(
                f"the store has copied other bytes than were staged: the crc64nvme of the copy is {copied}, not "
                f"{self.crc64nvme}",
                where=where,
                hint=f"run the same command again; if it fails again: {option('source_copy')} send",
            )

    def _compare_parts(self, told: Sequence[str]) -> None:
        if self.digests is None or len(self.digests.values) != len(told):
            raise RuntimeError("the stream was not hashed to its end")
        for part, (copied, read) in enumerate(zip(told, self.digests.values, strict=True), 1):
            where = Where("UploadPartCopy", key=self.upload.key, part=part)
            if not copied:
                raise NotCopiedError(
                    f"the store does not return the {self.proof} of a copied part", where=where
                )
            if copied != read:
                raise DigestMismatchError(
                    f"the store has copied other bytes than were read: {self.proof} of the copy is {copied}, of the "
                    f"stream {read}",
                    where=where,
                    hint=f"run the same command again; if it fails again: {option('source_copy')} send",
                )


@dataclass(eq=False)
class PartCopier:
    """Has the store copy parts, each retried according to the bucket's retrier."""

    bucket: WritableBucket
    unchanged: Callable[[], Awaitable[bool]]
    """Checks whether the source is still the one that was pinned."""
    with_crc64nvme: bool
    """Whether a copied part is useless without its CRC64NVME."""
    _by_version: bool = field(default=True, init=False)

    async def copy(self, upload: Upload, number: int, part: Copy) -> SentPart:
        """Copy one part, unless an earlier run has done so; the result is not proven yet.

        Raises:
            SourceChangedError: the source has been replaced.
            NotCopiedError: the store does not copy it.
        """
        uploaded = upload.uploaded.get(number)
        if (
            uploaded is not None
            and not uploaded.fingerprint  # otherwise it was sent
            and uploaded.size == part.size
            and (uploaded.crc64nvme is not None or not self.with_crc64nvme)
        ):
            told = CopiedPart(uploaded.etag, uploaded.crc64nvme)
        else:
            told = await self._copied(upload, number, part)
        return SentPart(number, part.size, told.etag, "", crc64nvme_value(told.crc64nvme), None, proven=False)

    async def _copied(self, upload: Upload, number: int, part: Copy) -> CopiedPart:
        source = part.source if self._by_version else replace(part.source, version_id=None)

        async def once() -> CopiedPart:
            with min_throughput(part.size):
                return await self.bucket.once.copy_part(upload.key, upload.upload_id, number, source)

        try:
            return await self.bucket.retrier("UploadPartCopy", once)
        except SourceChangedError as error:
            # A store's word alone does not decide that: some refuse every condition, or report an upload as a key.
            if not await self.unchanged():
                raise
            raise _refused(error) from error
        except AccessDeniedError as error:
            if source.version_id is None:
                raise _refused(error) from error
            self._by_version = False  # a version needs its own permission; the ETag pins the source too
        except ConfigurationError as error:
            raise _refused(error) from error
        return await self._copied(upload, number, part)


def _refused(error: AccessDeniedError | ConfigurationError | SourceChangedError) -> NotCopiedError:
    return NotCopiedError(
        f"the store does not copy the source: {error.what}", where=error.where, hint=error.hint
    )
