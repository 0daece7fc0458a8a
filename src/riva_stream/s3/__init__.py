"""S3 behind a narrow port. Only this room imports aioboto3, botocore and aiohttp."""

from riva_stream.s3.client import S3Store
from riva_stream.s3.options import WriteOptions
from riva_stream.s3.port import (
    NO_TAGS,
    CompletedPart,
    Folders,
    Lifecycle,
    Listing,
    ObjectInfo,
    OpenUpload,
    PartBody,
    RangeReply,
    Store,
    Stored,
)
from riva_stream.s3.session import StoreSettings, open_store

__all__ = [
    "NO_TAGS",
    "CompletedPart",
    "Folders",
    "Lifecycle",
    "Listing",
    "ObjectInfo",
    "OpenUpload",
    "PartBody",
    "RangeReply",
    "S3Store",
    "Store",
    "StoreSettings",
    "Stored",
    "WriteOptions",
    "open_store",
]
