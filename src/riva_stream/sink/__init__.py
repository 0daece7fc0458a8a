"""Multipart uploads that stay open until everything is verified, and that another run can go on with."""

from riva_stream.sink.parts import Check, SentPart, Weighed, base64_crc, body_of, weigh
from riva_stream.sink.tagging import Tagging
from riva_stream.sink.upload import KnownPart, Upload, UploadRecord
from riva_stream.sink.uploads import Uploads

__all__ = [
    "Check",
    "KnownPart",
    "SentPart",
    "Tagging",
    "Upload",
    "UploadRecord",
    "Uploads",
    "Weighed",
    "base64_crc",
    "body_of",
    "weigh",
]
