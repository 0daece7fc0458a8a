"""S3 URIs."""

from __future__ import annotations

from riva_stream.errors import ConfigurationError

__all__ = ["split"]


def split(uri: str, example: str = "s3://deployments/prod/") -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises:
        ConfigurationError: this is no such URI.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise ConfigurationError(f"{uri!r} is not an S3 URI", hint=f"for example: {example}")
    return bucket, key
