"""S3 URIs as positional arguments: a wrong one is reported with an example."""

from __future__ import annotations

from riva_stream.deployment import DOCUMENTS
from riva_stream.errors import ConfigurationError
from riva_stream.uris import split_uri

__all__ = ["STAGING", "split", "split_prefix", "split_staging"]

STAGING = "s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/"
"""An example of a staging's URI."""


def split(uri: str, example: str = "s3://deployments/prod/") -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises:
        ConfigurationError: it is not such a URI.
    """
    try:
        return split_uri(uri)
    except ValueError as error:
        raise ConfigurationError(f"{uri!r} {error}", hint=f"for example: {example}") from error


def split_prefix(uri: str, example: str = "s3://deployments/prod/") -> tuple[str, str]:
    """Bucket, and prefix with its closing slash: ``dev/n/v1`` must not match ``dev/n/v10``. "" is the whole bucket.

    Raises:
        ConfigurationError: it is not such a URI.
    """
    bucket, key = split(uri, example)
    return bucket, "".join(f"{segment}/" for segment in key.split("/") if segment)


def split_staging(uri: str) -> tuple[str, str]:
    """Bucket and prefix, with its closing slash, of a staging, which the URI of one of its documents names as well.

    Raises:
        ConfigurationError: it is not such a URI, or names a bucket alone.
    """
    bucket, prefix = split_prefix(uri, STAGING)
    last = prefix.rstrip("/").rpartition("/")[2]
    if last in DOCUMENTS:
        prefix = prefix.removesuffix(f"{last}/")
    if not prefix:
        raise ConfigurationError(
            f"{uri!r} names a bucket, not a staging in it",
            hint=f"for example: {STAGING}; list what there is: riva-stream ls s3://{bucket}",
        )
    return bucket, prefix
