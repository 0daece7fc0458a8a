"""What pins the source, and what the store itself says about its bytes."""

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
    """Full-object checksums of the source as its store keeps them: algorithm → base64 (``md5``: hexadecimal).

    They are the store's word about what was uploaded to it, so a stream that differs was broken on its way here.
    """

    values: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, info: ObjectInfo) -> SourceChecksums:
        """Those that a HEAD with ChecksumMode told.

        The ETag of an object that was put in one piece, and not encrypted with KMS, is its MD5 (S3 API reference,
        "Object": ETag); one of several parts holds a "-".
        """
        values = {name: value for name, value in info.checksums.items() if name in _COMPARABLE}
        # One that S3 itself computes is enough; MD5 is by far the dearest of them.
        if not values and _MD5.fullmatch(info.etag) and not info.encryption.startswith("aws:kms"):
            values["md5"] = info.etag
        return cls(values)

    @property
    def to_compute(self) -> tuple[str, ...]:
        """Algorithms beside SHA-256 that the stream must be hashed with."""
        return tuple(name for name in self.values if name != "sha256")

    def compare(self, record: DigestRecord, *, uri: str) -> list[str]:
        """The names of all that agree.

        Raises:
            DigestMismatchError: one does not.
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
    """The one object that this run reads, as the first HEAD found it."""

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
