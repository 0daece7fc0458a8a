"""Buckets, access points and S3 URIs: the one parser for settings, positional arguments, IAM policies and documents.

An access point's ARN may be used wherever a bucket is named; in a URI the key follows it:
``s3://arn:aws:s3:us-east-1:111122223333:accesspoint/models/riva/model.tar.gz``. Its parts are those of Amazon S3's User
Guide ("Access points", "Bucket naming rules") and of the IAM reference ("Actions, resources, and condition keys for
Amazon S3").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

__all__ = [
    "ALIAS",
    "GLOB",
    "AccessPoint",
    "access_point_of",
    "bucket_of",
    "is_aws_url",
    "key_of",
    "partition_of",
    "split_uri",
    "valid_bucket",
]

GLOB = re.compile(r"[*?\[]")
"""A character that makes a key a pattern for several."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,48}[a-z0-9]")
_MULTI_REGION = re.compile(r"[a-z0-9]+\.mrap")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
# Before it: a bucket, an access point, or an interface endpoint. Other services' names, behind which any store may be
# (EC2, load balancers, API Gateway), have the same ending. (AWS General Reference, "Amazon S3 endpoints and quotas".)
_S3_HOST = re.compile(
    r"(.+\.)?s3(-fips|-accelerate|-accesspoint|-accesspoint-fips|-external-1|-global)?(\.dualstack)?"
    r"([.-](aws-global|[a-z]{2,}(-[a-z]+)+-\d+(-fips)?))?(\.vpce)?\.amazonaws\.com(\.cn)?"
)
_ACCOUNT = re.compile(r"\d{12}")
_PARTITION = re.compile(r"aws(-[a-z]+)*")
# By the beginning of a region's name (AWS General Reference, "Partitions").
_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}
ALIAS = "-s3alias"
"""Suffix of an access point's alias, which may be used wherever a bucket's name may."""
_RESERVED = {
    ".mrap": "is the alias of a multi-region access point: give its ARN, arn:aws:s3::ACCOUNT:accesspoint/NAME.mrap",
    "--ol-s3": "is the alias of an Object Lambda access point, which changes what is read: name the bucket behind it",
}
_UNSUPPORTED = {
    "s3-outposts": "is an ARN of S3 on Outposts, which is not supported: name a bucket in a region",
    "s3-object-lambda": "is an ARN of S3 Object Lambda, which changes what is read: name the bucket behind it",
}
_EXAMPLE = "arn:aws:s3:us-east-1:111122223333:accesspoint/NAME"


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """One access point."""

    partition: str
    region: str
    """Empty for a multi-region access point."""
    account: str
    name: str

    @property
    def is_multi_region(self) -> bool:
        """Whether each request may go to another region, and so to another bucket."""
        return not self.region

    def __post_init__(self) -> None:
        """Check that such an access point can exist.

        Raises:
            ValueError: it cannot; the message says why.
        """
        if not _ACCOUNT.fullmatch(self.account):
            raise ValueError(f"is an ARN without an account of 12 digits: {_EXAMPLE}")
        if self.region and not (
            _REGION.fullmatch(self.region) and partition_of(self.region) == self.partition
        ):
            raise ValueError(f"is an ARN of no region of the partition {self.partition}: {self.region!r}")
        if not (_NAME if self.region else _MULTI_REGION).fullmatch(self.name):
            wanted = "NAME" if self.region else "NAME.mrap (or the region is missing)"
            raise ValueError(
                f"is an ARN without the name of an access point: it ends in accesspoint/{wanted}"
            )

    @property
    def arn(self) -> str:
        """The ARN, as IAM writes it."""
        return f"arn:{self.partition}:s3:{self.region}:{self.account}:accesspoint/{self.name}"


def partition_of(region: str | None) -> str:
    """The part of AWS that a region belongs to: the second word of its ARNs."""
    return next((found for start, found in _PARTITIONS.items() if (region or "").startswith(start)), "aws")


def is_aws_url(url: str) -> bool:
    """Whether this is the URL of an endpoint of Amazon S3 itself, whose documented guarantees need not be probed."""
    return _S3_HOST.fullmatch(urlsplit(url).hostname or "") is not None


@lru_cache
def access_point_of(bucket: str) -> AccessPoint | None:
    """The access point named in place of a bucket; None: it is a bucket's name.

    Raises:
        ValueError: it begins like an ARN, but is not that of an access point for whole objects.
    """
    if not bucket.startswith("arn:"):
        return None
    words = bucket.split(":", 5)
    if len(words) < 6:  # noqa: PLR2004 - arn:partition:service:region:account:resource
        raise ValueError(f"is not a whole ARN: {_EXAMPLE}")
    _, partition, service, region, account, resource = words
    if not _PARTITION.fullmatch(partition):
        raise ValueError(f"is an ARN of no partition of AWS: {partition!r}")
    if service != "s3":
        raise ValueError(
            _UNSUPPORTED.get(service, f"is an ARN of {service or 'no service'}, not of S3: {_EXAMPLE}")
        )
    kind, _, name = resource.replace(":", "/", 1).partition("/")
    if kind != "accesspoint":
        if not region and not account:
            raise ValueError(f"is the ARN of a bucket: give its name alone, {kind}")
        raise ValueError(f"is an ARN of {kind or 'nothing'}, not of an access point: {_EXAMPLE}")
    return AccessPoint(partition, region, account, name)


def valid_bucket(bucket: str) -> str:
    """A bucket's name, or an access point's ARN as IAM writes it.

    Raises:
        ValueError: it is neither; the message says why.
    """
    point = access_point_of(bucket)
    if point is not None:
        return point.arn
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(
            "is not a bucket name (3 to 63 of a-z, 0-9, '.' and '-'; no s3:// and no path), nor the ARN of an access point"
        )
    if why := next((why for end, why in _RESERVED.items() if bucket.endswith(end)), ""):
        raise ValueError(why)
    return bucket


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key may be empty.

    Bucket names are not validated further: stores other than AWS allow others.

    Raises:
        ValueError: it is not such a URI, or has an invalid ARN in place of the bucket.
    """
    rest = uri.removeprefix("s3://")
    if rest == uri or not rest.partition("/")[0]:
        raise ValueError("is not an S3 URI with a bucket: s3://bucket/key")
    bucket, _, key = rest.partition("/")
    if rest.startswith("arn:"):
        head, kind, tail = rest.partition(":accesspoint")
        if kind:  # its name is one more segment
            name, _, key = tail[1:].partition("/")
            bucket = head + kind + tail[:1] + name
        elif ":outpost/" in rest:
            bucket, key = rest, ""
    point = access_point_of(bucket)
    return (point.arn if point is not None else bucket), key


def bucket_of(uri: str) -> str:
    """The bucket, or the access point's ARN, of a URI that is known to be valid."""
    return split_uri(uri)[0]


def key_of(uri: str) -> str:
    """The key of a URI that is known to be valid."""
    return split_uri(uri)[1]
