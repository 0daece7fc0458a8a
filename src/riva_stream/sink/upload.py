"""One object being written, and the record of it once completed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from riva_stream.flow.buffers import Chunk
from riva_stream.flow.digest import base64_crc, crc64nvme_value, md5_of
from riva_stream.s3 import CompletedPart, CopySource, OpenUpload, Stored
from riva_stream.sink.parts import Copy, Part, PartChecksums, SentPart

__all__ = ["Upload", "UploadRecord", "UploadedPart", "etags_of", "multipart_etag"]


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that the store has from an earlier run, as described by the store and that run's journal."""

    size: int
    etag: str
    fingerprint: str
    """From the journal; "" if it does not name the part with this ETag."""
    crc64nvme: str | None
    """From the store; base64."""
    sent_crc64nvme: str | None = None
    """From the journal, of the bytes that were sent; base64. None if it was not computed, or the ETag differs."""

    @property
    def proof(self) -> str:
        """Proof, without its bytes, that this is the part which the journal's run sent; "" if there is none.

        ``crc64nvme``: the store's own checksum is that of the bytes. ``etag``: its ETag is the one given at that time.
        """
        if self.crc64nvme is not None and self.sent_crc64nvme is not None:
            return "crc64nvme" if self.crc64nvme == self.sent_crc64nvme else ""
        return "etag" if self.fingerprint else ""

    def matches(self, checksums: PartChecksums) -> bool:
        """Whether the store has exactly the bytes from which the checksums were computed.

        The store's own checksum is the better evidence; without one the fingerprint that the earlier run computed of
        what it sent must match.
        """
        if self.size != checksums.size:
            return False
        if self.crc64nvme is not None and checksums.crc64nvme is not None:
            return self.crc64nvme == base64_crc(checksums.crc64nvme)
        return self.fingerprint == checksums.fingerprint


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A completed object."""

    key: str
    size: int
    content_type: str
    stored: Stored
    created_by: str
    """The run id in the object's metadata."""
    crc64nvme: str | None
    """Of the whole object, base64, if each part was sent with its own."""
    expected_etag: str
    """The required ETag, if ETags are the MD5 of the parts' MD5s."""


@dataclass(eq=False)
class Upload:
    """One object being written. Parts are numbered in the order in which they are sent."""

    key: str
    content_type: str
    metadata: Mapping[str, str]
    upload_id: str
    created_by: str
    enqueue: Callable[[Upload, int, Part], None]
    uploaded: dict[int, UploadedPart] = field(default_factory=dict)
    """Parts that the store has from an earlier run."""
    parts: dict[int, SentPart] = field(default_factory=dict)
    numbered: int = 0
    is_adopted: bool = False
    """Whether an earlier run has created it; one with the same run id, perhaps."""
    is_copied: bool = False
    """Whether the store was asked to copy any of its parts."""
    expected: int = 0
    """Bytes of the whole object, if known beforehand."""
    sends_crc64nvme: bool = False
    """Whether parts are sent with their CRC64NVME, so that Complete is given those of all parts."""
    record: UploadRecord | None = None

    @property
    def handle(self) -> OpenUpload:
        """The handle for aborting it."""
        return OpenUpload(self.key, self.upload_id)

    def skip(self, parts: int) -> None:
        """Adopt the first parts from an earlier run; the next part that is sent follows them."""
        for number in range(1, parts + 1):
            uploaded = self.uploaded[number]
            crc = (uploaded.crc64nvme or uploaded.sent_crc64nvme) if self.sends_crc64nvme else None
            self.parts[number] = SentPart(
                number,
                uploaded.size,
                uploaded.etag,
                uploaded.fingerprint,
                crc64nvme_value(crc),
                None,
            )
        self.numbered = parts

    def send(self, chunk: Chunk) -> None:
        """Queue the next part, of which this upload holds a share; the share is released once it is durable."""
        self._enqueue(chunk)

    def copy(self, source: CopySource, size: int) -> None:
        """Queue the next part, of ``size`` bytes, for the store to copy."""
        self.is_copied = True
        self._enqueue(Copy(source, size))

    def _enqueue(self, part: Part) -> None:
        self.numbered += 1
        self.enqueue(self, self.numbered, part)

    @property
    def in_order(self) -> list[SentPart]:
        """The parts that the store has acknowledged."""
        return [self.parts[number] for number in sorted(self.parts)]

    def completed_parts(self) -> list[CompletedPart]:
        """The parts in the form for Complete."""
        if not all(part.proven for part in self.parts.values()):
            raise RuntimeError("a copy that was not compared with what was hashed")
        return [CompletedPart(part.number, part.etag, part.size, part.checksum) for part in self.in_order]

    @property
    def size(self) -> int:
        """Bytes that the store has acknowledged."""
        return sum(part.size for part in self.parts.values())


def multipart_etag(parts: list[SentPart]) -> str:
    """MD5 of the parts' MD5s and their number; the parts' ETags are their MD5s wherever this applies."""
    try:
        digests = [part.md5 or bytes.fromhex(part.etag) for part in parts]
    except ValueError:
        return ""
    return f"{md5_of(digests).hex()}-{len(parts)}"


def etags_of(parts: list[SentPart]) -> set[str]:
    """The possible ETags of an object of these parts, if made of MD5s; some stores use that of its bytes."""
    known = {multipart_etag(parts)}
    if len(parts) == 1:
        known.add(parts[0].md5.hex() if parts[0].md5 else parts[0].etag)
    return known - {""}
