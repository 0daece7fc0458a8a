"""S3 URIs as positional arguments: a wrong one is reported with an example."""

from __future__ import annotations

from riva_stream.errors import ConfigurationError
from riva_stream.uris import split_uri

__all__ = ["split", "split_prefix"]


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
