"""S3 behind a narrow port. Only this room imports aioboto3, botocore and aiohttp."""

from riva_stream.s3.bucket import UNSEEN, Attempt, Bucket, LeftUpload, WritableBucket
from riva_stream.s3.client import S3Store
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import (
    NO_TAGS,
    REQUEST_EXPIRED,
    CompletedPart,
    CopiedPart,
    CopySource,
    Document,
    Folders,
    Lifecycle,
    Listing,
    ObjectInfo,
    ObjectPart,
    OpenUpload,
    PartBody,
    RangeReply,
    Reader,
    Store,
    Stored,
    Window,
    Writer,
)
from riva_stream.s3.session import StoreSettings, open_store

__all__ = [
    "NO_TAGS",
    "REQUEST_EXPIRED",
    "UNSEEN",
    "Attempt",
    "Bucket",
    "CompletedPart",
    "CopiedPart",
    "CopySource",
    "Document",
    "Folders",
    "LeftUpload",
    "Lifecycle",
    "Listing",
    "ObjectInfo",
    "ObjectPart",
    "OpenUpload",
    "PartBody",
    "RangeReply",
    "Reader",
    "S3Store",
    "Store",
    "StoreSettings",
    "Stored",
    "Window",
    "WritableBucket",
    "WriteOptions",
    "Writer",
    "open_store",
]
