"""Conversion from botocore's answers to the port's values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from riva_stream.errors import TransientError
from riva_stream.s3.port import CopySource, Folders, ObjectInfo, PartBody

__all__ = [
    "checksum_of",
    "code_of",
    "condition_of",
    "copied_from",
    "date_of",
    "folders_of",
    "info_of",
    "now_of",
    "require_own",
    "unquoted",
    "version_of",
    "versioned",
]


def checksum_of(body: PartBody) -> dict[str, str]:
    """The arguments by which the store verifies ``body``; a SHA-256 goes into the signature instead."""
    named = {"ChecksumCRC64NVME": body.crc64nvme, "ContentMD5": body.md5}
    return {name: value for name, value in named.items() if value}


def condition_of(*, if_absent: bool = False, if_match: str | None = None) -> dict[str, str]:
    """The arguments of a condition on the existing object."""
    if if_absent:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": f'"{if_match}"'} if if_match else {}


def copied_from(source: CopySource) -> dict[str, Any]:
    """The arguments that name the source of a copied part."""
    named: dict[str, Any] = {
        "CopySource": {"Bucket": source.bucket, "Key": source.key, **versioned(source.version_id)},
        "CopySourceIfMatch": f'"{source.etag}"',
    }
    if source.first is not None:
        named["CopySourceRange"] = f"bytes={source.first}-{source.last}"
    return named


def now_of(answer: Mapping[str, Any]) -> datetime | None:
    """The store's own clock at its answer."""
    return date_of(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """The header ``Date`` of an answer, with its zone; None if it is missing or malformed."""
    with suppress(TypeError, ValueError):
        told = parsedate_to_datetime(headers["date"]) if "date" in headers else None
        return told if told is None or told.tzinfo else told.replace(tzinfo=UTC)
    return None


def code_of(error: Any) -> str:
    """The service's error code."""
    return str(error.response.get("Error", {}).get("Code", ""))


_OF_ALL = {"ResponseMetadata", "RequestCharged", "EncodingType", "AbortDate", "AbortRuleId"}
"""Fields that an answer may have regardless of its body."""


def require_own(answer: Mapping[str, Any]) -> None:
    """Refuse an answer without any field of its operation: a gateway's page, or nothing, with status 200.

    Raises:
        TransientError: it has none; an empty result is expressed differently.
    """
    if not answer.keys() - _OF_ALL:
        raise TransientError("the store's answer is not one to this request")


def unquoted(etag: str | None) -> str:
    """An ETag without its quotes, and without the prefix of a weak one (``W/"..."``); "" for none."""
    return (etag or "").removeprefix("W/").strip('"')


def version_of(answer: Mapping[str, Any]) -> str | None:
    """The VersionId, or None if versioning is off ("null" is S3's name for that)."""
    return None if answer.get("VersionId") in {None, "null"} else str(answer["VersionId"])


def versioned(version_id: str | None) -> dict[str, str]:
    """The argument that names a version, if one is given."""
    return {"VersionId": version_id} if version_id else {}


def info_of(key: str, answer: Mapping[str, Any], *, size: int) -> ObjectInfo:
    """An object as described by HEAD or by one entry of a listing."""
    kind, in_parts = answer.get("ChecksumType", ""), "-" in unquoted(answer.get("ETag"))
    checksums = {
        name.lower(): answer[f"Checksum{name}"]
        for name in ("CRC64NVME", "CRC32", "CRC32C", "SHA1", "SHA256")
        # Before ChecksumType existed, a composite value was recognised by its "-<parts>"; some stores omit both. A
        # CRC64NVME is always of the whole object.
        if answer.get(f"Checksum{name}")
        and "-" not in answer[f"Checksum{name}"]
        and (kind == "FULL_OBJECT" or (not kind and (not in_parts or name == "CRC64NVME")))
    }
    return ObjectInfo(
        key=key,
        size=size,
        etag=unquoted(answer.get("ETag")),
        last_modified=answer.get("LastModified"),
        version_id=version_of(answer),
        metadata=answer.get("Metadata", {}),
        content_type=answer.get("ContentType", ""),
        checksums=checksums,
        encryption=answer.get("ServerSideEncryption", ""),
        storage_class=answer.get("StorageClass", ""),
        restore=answer.get("Restore", ""),
        now=now_of(answer),
    )


def folders_of(answer: Mapping[str, Any]) -> Folders:
    """The contents of a listing with a delimiter."""
    return Folders(
        names=[entry["Prefix"] for entry in answer.get("CommonPrefixes", [])],
        objects=[info_of(entry["Key"], entry, size=entry["Size"]) for entry in answer.get("Contents", [])],
        token=str(answer.get("NextContinuationToken", "")) if answer.get("IsTruncated") else "",
        now=now_of(answer),
    )
