"""The column of SeaweedFS in the table of what each store enforces: by question of :mod:`tests.contract.enforcement`."""

from __future__ import annotations

from collections.abc import Mapping

from tests.contract.ground import TAKEN

__all__ = ["SEAWEED"]

SEAWEED: Mapping[str, str] = {
    "PUT, wrong CRC64NVME": "BadDigest",
    "PUT, wrong Content-MD5": "BadDigest",
    "PUT, wrong signed SHA-256": TAKEN,
    "UploadPart, wrong CRC64NVME, declared at Create": "BadDigest",
    "UploadPart, wrong CRC64NVME, not declared": "BadDigest",
    "UploadPart, wrong Content-MD5": "BadDigest",
    "UploadPart, wrong signed SHA-256": TAKEN,
    "UploadPart with Content-MD5 only, CRC64NVME declared at Create": TAKEN,
    "UploadPart of an aborted upload": "NoSuchUpload",
    "UploadPart of a completed upload": "NoSuchUpload",
    "UploadPart number 10,001": "InvalidPart",
    "Complete, another ETag": "InvalidPart",
    "Complete, a part that was not sent": "EntityTooSmall",
    "Complete, wrong MpuObjectSize": TAKEN,
    "Complete, wrong CRC64NVME of the whole": "BadDigest",
    "Complete, parts under 5 MiB that are not the last": "EntityTooSmall",
    "Complete, a second time": TAKEN,
    "Complete of an aborted upload": "NoSuchUpload",
    "Complete, If-None-Match: *, the key is there": "PreconditionFailed",
    "Complete, If-Match, another ETag": "PreconditionFailed",
    "PUT, If-None-Match: *, the key is there": "PreconditionFailed",
    "PUT, If-Match, another ETag": "PreconditionFailed",
    "PUT, If-Match, no such key": "PreconditionFailed",
    "PUT, If-Match, the right ETag": TAKEN,
    "GET of a range, If-Match, another ETag": "PreconditionFailed",
    "GET of a range after the end": "InvalidRange",
    "GET of a range, no such key": "NoSuchKey",
    "GET of a range, no such version": TAKEN,
    "an unknown access key": "InvalidAccessKeyId",
    "a wrong secret key": "SignatureDoesNotMatch",
}
