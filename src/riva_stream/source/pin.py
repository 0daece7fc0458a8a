"""The pin of the source, and the store's own checksums of its bytes."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from datetime import datetime

from riva_stream.errors import DigestMismatchError
from riva_stream.flow.digest import DigestRecord
from riva_stream.s3 import ObjectInfo

__all__ = ["PinnedSource", "SourceChecksums"]

_MD5 = re.compile(r"[0-9a-f]{32}")
_COMPARABLE = ("crc64nvme", "sha256", "crc32c", "crc32", "sha1")


@dataclass(frozen=True, slots=True)
class SourceChecksums:
    """Full-object checksums of the source as kept by its store: algorithm → base64 (``md5``: hexadecimal).

    They are the store's record of what was uploaded, so a stream that differs was corrupted on its way here.
    """

    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, info: ObjectInfo) -> SourceChecksums:
        """The checksums in the answer to a HEAD with ChecksumMode.

        The ETag of an object that was put in one piece, and not encrypted with KMS, is its MD5 (S3 API reference,
        "Object": ETag); that of a multipart object contains a "-".
        """
        values = {name: value for name, value in info.checksums.items() if name in _COMPARABLE}
        # One that S3 itself computes is enough; MD5 is by far the most expensive of them.
        if not values and _MD5.fullmatch(info.etag) and not info.encryption.startswith("aws:kms"):
            values["md5"] = info.etag
        return cls(values)

    @property
    def to_compute(self) -> tuple[str, ...]:
        """Algorithms besides SHA-256 with which the stream must be hashed."""
        return tuple(name for name in self.values if name != "sha256")

    def compare(self, record: DigestRecord, *, uri: str) -> list[str]:
        """Compare each with the stream; return their names, if all of them match.

        Raises:
            DigestMismatchError: one differs.
        """
        for name, value in self.values.items():
            computed = (
                base64.b64encode(bytes.fromhex(record.sha256)).decode()
                if name == "sha256"
                else record.others[name]
            )
            if computed != value:
                raise DigestMismatchError(
                    f"the bytes that were read from {uri} are not those its store holds: "
                    f"{name} is {computed}, the store says {value}",
                    hint="run the same command again; if it fails again the object is damaged in its store",
                )
        return ["md5-etag" if name == "md5" else name for name in self.values]


@dataclass(frozen=True, slots=True)
class PinnedSource:
    """The one object that this run reads, as found by the first HEAD."""

    bucket: str
    key: str
    size: int
    etag: str
    version_id: str | None
    last_modified: datetime | None
    checksums: SourceChecksums

    @property
    def uri(self) -> str:
        """``s3://bucket/key``."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def filename(self) -> str:
        """The last segment of its key."""
        return self.key.rpartition("/")[2]
