"""Multipart uploads that stay open until everything is verified, and that another run can resume."""

from riva_stream.sink.copies import CopiedObject, NotCopiedError, PartCopier, Proof, RangeDigests, RangesState
from riva_stream.sink.parts import Check, Copy, Part, PartChecksums, SentPart, body_of, checksum_part
from riva_stream.sink.tagging import Tagging
from riva_stream.sink.upload import Upload, UploadedPart, UploadRecord, etags_of
from riva_stream.sink.uploads import Uploads

__all__ = [
    "Check",
    "CopiedObject",
    "Copy",
    "NotCopiedError",
    "Part",
    "PartChecksums",
    "PartCopier",
    "Proof",
    "RangeDigests",
    "RangesState",
    "SentPart",
    "Tagging",
    "Upload",
    "UploadRecord",
    "UploadedPart",
    "Uploads",
    "body_of",
    "checksum_part",
    "etags_of",
]
