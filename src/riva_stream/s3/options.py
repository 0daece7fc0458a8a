"""The options of every object that is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Addressing", "WriteOptions"]

Addressing = Literal["auto", "path", "virtual"]
"""Where the bucket is in a URL; auto leaves it to the AWS configuration and the endpoint."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """The options of every object that is written. None: the bucket's own default."""

    sse: str | None = None
    kms_key_id: str | None = None
    storage_class: str | None = None
    expected_bucket_owner: str | None = None
    acl: str | None = None
    request_payer: str | None = None
    """Sent with every request that supports it, including reads: see ``session``."""

    def for_create(self) -> dict[str, Any]:
        """Arguments of PutObject and CreateMultipartUpload."""
        named = {
            "ServerSideEncryption": self.sse,
            "SSEKMSKeyId": self.kms_key_id,
            "StorageClass": self.storage_class,
            "ACL": self.acl,
        }
        return {k: v for k, v in named.items() if v is not None} | self.for_all()

    def for_all(self) -> dict[str, Any]:
        """Arguments of every request."""
        owner = self.expected_bucket_owner
        return {} if owner is None else {"ExpectedBucketOwner": owner}
