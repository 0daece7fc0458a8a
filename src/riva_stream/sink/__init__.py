"""Multipart uploads that stay open until everything is verified, and that another run can go on with."""

from riva_stream.sink.copies import CopiedObject, NotCopiedError, PartCopier, Proof, RangeDigests, RangesState
from riva_stream.sink.parts import Check, Copy, Part, Send, SentPart, Weighed, body_of, weigh
from riva_stream.sink.tagging import Tagging
from riva_stream.sink.upload import KnownPart, Upload, UploadRecord, etags_of
from riva_stream.sink.uploads import Uploads

__all__ = [
    "Check",
    "CopiedObject",
    "Copy",
    "KnownPart",
    "NotCopiedError",
    "Part",
    "PartCopier",
    "Proof",
    "RangeDigests",
    "RangesState",
    "Send",
    "SentPart",
    "Tagging",
    "Upload",
    "UploadRecord",
    "Uploads",
    "Weighed",
    "body_of",
    "etags_of",
    "weigh",
]
