"""What a run is asked to do: frozen, validated settings.

:class:`StageRequest` is all that :func:`riva_stream.stage` reads: no environment, no files. The command line
fills it from flags, the environment and ``.env`` (see ``cli.settings``).
"""

from __future__ import annotations

import re
import sys
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from riva_stream.flow.memory import SMALLEST_PART, MemoryPlan, least_memory, plan_memory
from riva_stream.layout import (
    DEPLOYMENTS,
    LEVELS,
    LONGEST_KEY,
    LONGEST_PLACE,
    Layout,
    is_segment,
    prefix_of,
)
from riva_stream.naming import option
from riva_stream.sizes import GIB, MIB, MOST_PARTS, human_size
from riva_stream.uris import GLOB, access_point_of, bucket_of, key_of, split_uri, valid_bucket

__all__ = [
    "NOT_TEXT",
    "Contradiction",
    "Filled",
    "Levels",
    "Place",
    "ProblemCode",
    "PromoteRequest",
    "Request",
    "StageRequest",
    "Stores",
    "Wrong",
    "contradictions_in",
    "is_run_id",
    "is_text",
    "levels_of",
    "place_of",
    "reason_of",
]

T = TypeVar("T")

_SOURCE_BUCKET = re.compile(r"[A-Za-z0-9.\-_]+")
_SIGNED = re.compile(r"[?&](X-Amz-[A-Za-z-]+|AWSAccessKeyId|Signature)=", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_ACL = r"^(private|public-read(-write)?|authenticated-read|aws-exec-read|bucket-owner-(read|full-control))$"
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes of S3 Glacier (Amazon S3 User Guide, "Restoring an archived object")."""
_LONGEST_RUN_ID = 128
_ARCHITECTURES = ("rnnt", "ctc", "tdt")

_STAGING = "s3://bucket/ENV/NAME/VERSION/"
_DESTINATION = frozenset({"bucket", "env", "model_name", "model_version"})
_TOO_LONG = f"is too long for S3: ENV/NAME/VERSION/ may have at most {LONGEST_PLACE} characters"


NOT_TEXT = (
    "is not UTF-8, or holds a NUL"
    if sys.getfilesystemencoding() == "utf-8"
    else f"cannot be read in this locale, whose encoding is {sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8"
)
"""What is wrong with a value that is not text: the end of a sentence."""


def is_text(value: object) -> bool:
    """Whether it can be written as UTF-8 and passed to a process.

    A process may be given arbitrary bytes, which Python keeps as surrogates; a NUL ends an argument or a variable.
    """
    if isinstance(value, tuple | list):
        return all(map(is_text, value))
    try:
        return b"\0" not in str(value).encode()
    except UnicodeEncodeError:
        return False


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _must(hold: Callable[[T], object], otherwise: str) -> Callable[[T], T]:
    """A pydantic validator for a condition beyond the type; ``otherwise`` is the end of a sentence."""

    def checked(value: T) -> T:
        if not hold(value):
            raise ValueError(otherwise)
        return value

    return checked


def is_run_id(value: str) -> bool:
    """Whether it may be used in file names."""
    return is_segment(value) and len(value) <= _LONGEST_RUN_ID


_segment = _must(
    is_segment, "must be one safe path segment: letters, digits, '.', '_' and '-', and not '.' or '..'"
)
_run_id = _must(
    is_run_id, "is not a run id: up to 128 of letters, digits, '.', '_' and '-', and not '.' or '..'"
)
_sha256 = _must(_SHA256.fullmatch, "is not a SHA-256: 64 hexadecimal digits")
_readable = _must(
    lambda storage_class: storage_class not in _ARCHIVES,
    "is a storage class whose objects cannot be read before they are restored: the documents, and the journal that a "
    "run is resumed from, are written in it as well",
)
# Not min_length: it does not count invalid entries, and so hides what is wrong with the only one.
Filled = AfterValidator(_must(bool, "has no entry"))


def _bucket(value: str) -> str:
    point = access_point_of(value)
    if point is not None and point.is_multi_region:
        raise ValueError(
            "is a multi-region access point, where each request may reach another bucket, so no run could hold its "
            "prefix: name one bucket, or an access point of one region"
        )
    return valid_bucket(value)


def _source(value: str) -> str:
    bucket, key = split_uri(value) if value.startswith("s3://") else ("", "")
    is_bucket = bool(_SOURCE_BUCKET.fullmatch(bucket)) or access_point_of(bucket) is not None
    if not key or not is_bucket:
        raise ValueError("is not an S3 URI with a bucket and a key: s3://bucket/path/model.tar.gz")
    if _SIGNED.search(key):  # it would end up in every document
        raise ValueError("has a signature in it: give the URI alone, s3://bucket/path/model.tar.gz")
    return f"s3://{bucket}/{key}"


def _server_path(value: str) -> str:
    if value.startswith("s3://"):
        return _source(value)
    if "://" in value or value.startswith("/") or not value.isprintable() or "\\" in value:
        raise ValueError("is neither an S3 URI nor a key in the destination bucket")
    return value


def _staging(value: str) -> str:
    """A staging's URI; also that of a bintarball reference."""
    if not value.startswith("s3://"):
        raise ValueError(f"is not the S3 URI of a staging: {_STAGING}")
    bucket, key = split_uri(value)
    root = DEPLOYMENTS if key.startswith(DEPLOYMENTS) else ""
    levels = key.removeprefix(root).rstrip("/").split("/")
    if len(levels) != LEVELS:
        raise ValueError(f"does not name a staging, which is at {_STAGING}")
    if len("/".join((*levels, ""))) > LONGEST_PLACE:
        raise ValueError(_TOO_LONG)
    return f"s3://{_bucket(bucket)}/{root}{'/'.join(map(_segment, levels))}/"


def place_of(value: str) -> str:
    """Where a staging of any mode may go."""
    return _staging(value).replace(f"/{DEPLOYMENTS}", "/", 1)


def _endpoint(value: str) -> str:
    """Normalise an endpoint URL, so that one store has one spelling: lower-case host, no default port."""
    match = re.fullmatch(r"(https?)://([^\s/]*@)?([^\s/@?#]+)(/[^\s?#]*)?", value)
    if match is not None and match[2]:
        raise ValueError(
            "has a user name in it, which S3 does not use: credentials have settings of their own"
        )
    host, port = "", None
    if match is not None:
        with suppress(ValueError):  # of the port, or of an IPv6 address
            url = urlsplit(f"//{match[3]}")
            port, host = url.port, url.hostname or ""
    if match is None or not host:
        raise ValueError("is not an endpoint URL: https://host[:port]")
    scheme, _, _, path = match.groups(default="")
    host = f"[{host}]" if ":" in host else host
    place = host if port in {None, {"http": 80, "https": 443}[scheme]} else f"{host}:{port}"
    return f"{scheme}://{place}{path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A field that contradicts others; in the ``ctx`` of the validation error, under ``contradictions``."""

    field: str
    text: str
    """The end of a sentence that begins with the field."""
    presumed: frozenset[str] = frozenset()
    """Fields that must be valid themselves for this to mean anything."""


ProblemCode = Literal["syntax", "missing", "unknown", "malformed", "contradiction", "duplicate", "unused"]
"""``syntax``, ``unknown`` (no such field) and ``duplicate`` (two entries with one destination): only of a catalogue."""


class Wrong(NamedTuple):
    """What is wrong with a setting, or with a field of a catalogue."""

    code: ProblemCode
    text: str
    """The end of a sentence that begins with the setting's name, or the field's location."""


_KINDS = {
    **dict.fromkeys(("string_type", "string_sub_type"), "text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "a table"),
}
"""The expected type, by pydantic's name of the error."""
_LIMITS = (("ge", "at least"), ("le", "at most"), ("gt", "more than"), ("lt", "less than"))


def reason_of(item: Mapping[str, Any], limit: Callable[[Any], str] = "{:g}".format) -> str:
    """One of pydantic's errors as the end of a sentence that begins with the setting's name. Never repeats the value."""
    context = item.get("ctx", {})
    for key, words in _LIMITS:
        if key in context:
            return f"must be {words} {limit(context[key])}"
    if item["type"] == "contradiction":
        return str(item["msg"])
    if "error" in context:
        return str(context["error"])
    if item["type"] in _KINDS:
        return f"is not {_KINDS[item['type']]}"
    if item["type"] in {"literal_error", "enum"}:
        return f"is not {context['expected']}"
    return f"is malformed: {item['msg']}"


def contradictions_in(errors: Iterable[Mapping[str, Any]]) -> list[Contradiction]:
    """The contradictions among pydantic's errors."""
    return [found for item in errors for found in item.get("ctx", {}).get("contradictions", ())]


Segment = Annotated[str, AfterValidator(_segment)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Place = Annotated[str, AfterValidator(place_of)]


class Stores(BaseModel):
    """How the stores are reached: the one written to, and, where that differs, the one read from."""

    # Never repeat the input: it may be a secret in the wrong place.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _is_text = field_validator("*", mode="before")(_must(is_text, NOT_TEXT))

    region: str | None = None
    endpoint_url: Endpoint | None = None
    profile: str | None = None
    source_region: str | None = None
    source_endpoint_url: Endpoint | None = None
    source_profile: str | None = None
    ca_bundle: Path | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket goes in a URL. auto: as the AWS configuration says; otherwise in the path if there is an
    endpoint URL, or else as AWS wants it."""
    request_payer: Literal["requester"] | None = None
    """Who pays for requests to a requester-pays bucket; sent with every request."""
    no_sign_request: bool = False
    """The source is public: requests for it are not signed, and need no credentials."""


class Request(Stores):
    """What every request specifies: its stores, the objects that it writes, and its limits.

    Sizes are in bytes, times in seconds. Raises ``pydantic.ValidationError`` for an invalid field; the command
    line turns it into exit 78 with an example for each.
    """

    @field_validator("*", mode="before")
    @classmethod
    def _is_filled(cls, value: object, info: ValidationInfo) -> object:
        """An empty text is no setting: the variable that it was made from was not set."""
        if info.field_name != "description":
            if _is_blank(value):
                raise ValueError("is empty")
            if isinstance(value, tuple | list) and any(map(_is_blank, value)):
                raise ValueError("has an empty entry")
        return value

    force: bool = False
    dry_run: bool = False
    tag: bool = False
    """Tag every object with its retention and its model's name."""

    acl: str | None = Field(default=None, pattern=_ACL)
    """Canned access control list of every object that is written."""
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    kms_key_id: str | None = None
    storage_class: Annotated[str, AfterValidator(_readable)] | None = None
    """Of every object that is written, documents included: one whose objects can be read without a restore."""
    expected_bucket_owner: str | None = Field(default=None, pattern=r"^\d{12}$")

    part_size: int = Field(default=8 * MIB, ge=SMALLEST_PART, le=5 * GIB)
    """Bytes of a part and of a range; raised automatically where the source would need more parts than allowed."""
    connections: int = Field(default=8, ge=1, le=256)
    """Requests in flight at once in each direction, as far as ``memory`` allows."""
    memory: int = 256 * MIB
    """Ceiling of the whole process, in bytes; see docs/memory.md."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds without any progress after which the run stops."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds that the whole run may take."""
    retries: int = Field(default=8, ge=0, le=1000)
    """How often one request is retried."""
    upload_check: Literal["auto", "crc64nvme", "md5", "sha256", "none"] = "auto"
    source_copy: Literal["auto", "store", "send"] = "auto"
    """How the object below ``source/``, a model staged as it is, and the members of an uncompressed tar are made.
    store: the store copies them from the source, or the run fails. send: this process sends them. auto: by the store,
    where one set of credentials reaches both ends and the copy can be proven equal to the bytes that were hashed."""

    lease: float = Field(default=30.0, gt=0, le=3600)
    """Seconds without a heartbeat after which another run may take over."""
    wait: bool = False
    """Wait for a live run that holds the destination, instead of exiting with 75."""

    state_dir: Path | None = None
    """Where the run leaves its state; None: nowhere (a library's default)."""
    run_id: Annotated[str, AfterValidator(_run_id)] | None = None
    """None: one is generated."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := list(self._contradictions()):
            text = "\n".join(f"{each.field} {each.text}" for each in found)
            raise PydanticCustomError(
                "contradiction", "{text}", {"text": text, "contradictions": tuple(found)}
            )
        return self

    def _contradictions(self) -> Iterator[Contradiction]:
        """What does not fit together."""
        if self.kms_key_id and self.sse not in {"aws:kms", "aws:kms:dsse"}:
            yield Contradiction("kms_key_id", "needs sse to be aws:kms or aws:kms:dsse", frozenset({"sse"}))
        if self.memory < (least := least_memory(self.part_size)):
            yield Contradiction(
                "memory",
                f"is too small for parts of {human_size(self.part_size)}: the minimum is {human_size(least)}",
                frozenset({"part_size"}),
            )

    @property
    @abstractmethod
    def places(self) -> tuple[str, ...]:
        """``s3://bucket/prefix/`` of every staging that the request concerns: nothing else belongs there."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy, with other values of some fields: validated like a new request, which pydantic's own is not.

        Raises:
            ValidationError: the fields of ``update`` are wrong, or do not fit the others.
        """
        if not update:
            return super().model_copy(deep=deep)
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate({**given, **update})

    def with_valid(self, fields: Mapping[str, object]) -> Self:
        """A copy with fields that are known to be valid, or are not those of a run; nothing is validated."""
        return super().model_copy(update=fields)

    def shared(self) -> dict[str, object]:
        """The fields that all requests have, for another request with the same stores and limits."""
        return {name: getattr(self, name) for name in Request.model_fields}


class StageRequest(Request):
    """One staging: from where, to where, and how."""

    source: Annotated[str, AfterValidator(_source)]
    """``s3://bucket/key`` of the archive; a key that ends in ``/`` or holds a glob must match exactly one archive."""
    bucket: Annotated[str, AfterValidator(_bucket)]
    env: Segment
    model_name: Segment
    model_version: Segment
    language: str = Field(default="en-US", pattern=r"^[A-Za-z0-9-]{1,35}$")
    architecture: str | None = None
    """None: taken from the model's name (rnnt, ctc, tdt), else "unknown"."""
    description: str = ""

    reference_only: bool = False
    """Leave the archive where it is, and write metadata that pins it."""
    bintarball_reference: bool = False
    """Leave archive and container image where they are, and write the one ``deployment.json`` that pins both."""
    server_path: Annotated[str, AfterValidator(_server_path)] | None = None
    """``s3://bucket/key``, or a key in the destination bucket, of the container image that is to serve the model.

    With it every mode writes ``deployment.json`` and ``deployment_ready.txt``, which the pipeline's next step reads.
    """
    replicate_to: tuple[Place, ...] = ()
    """``s3://bucket/ENV/NAME/VERSION/`` of each place that the staging is promoted to once it is committed."""
    include: tuple[str, ...] = Field(default=("*.riva",), min_length=1)
    """Shell patterns; members whose base name or whole name matches one are staged as models."""
    expect_sha256: Annotated[str, AfterValidator(_sha256), AfterValidator(str.lower)] | None = None
    no_checksum: bool = False
    """Compute the digests anyway, but do not compare them with ``expect_sha256``."""
    allow_missing_end: bool = False
    """Accept a tar without its end-of-archive blocks, although a truncated tar looks the same."""
    max_members: int = Field(default=100_000, ge=1)
    """Entries that an archive may have."""
    max_models: int = Field(default=1_000, ge=1, le=50_000)
    """Members that may match ``include``; each costs an upload."""
    max_header_bytes: int = Field(default=MIB, ge=1024)
    """Bytes that are kept of one member's headers; pax records that are not needed do not count."""
    max_expanded: int = Field(default=5 << 40, ge=1)
    """Bytes that an archive may expand to."""
    max_ratio: float = Field(default=100.0, gt=1)
    """How much larger than its archive the expansion may be, judged once 64 MiB are expanded."""
    max_streams: int = Field(default=4_000_000, ge=1)
    """gzip members or zstd frames that an archive may be made of."""
    max_zstd_window: int = Field(default=32 * MIB, ge=1024, le=1 << 31)
    """Bytes of window that a zstd archive may need; the actual need is charged to ``memory``."""
    retention_days: int = Field(default=90, ge=1, le=36500)
    checkpoint: int = Field(default=256 * MIB, ge=0)
    """Bytes of the archive between two checkpoints, from which an interrupted run is resumed; 0: none are kept."""
    resume: Literal["auto", "full"] = "auto"
    """``full``: read the source from its start, even if there are checkpoints."""

    def _contradictions(self) -> Iterator[Contradiction]:
        yield from super()._contradictions()
        yield from self._too_long()
        if self.bintarball_reference and self.reference_only:
            yield Contradiction(
                "bintarball_reference", "and reference_only are two modes: ask for one of them"
            )
        elif not self.bintarball_reference and self.prefix.startswith(DEPLOYMENTS):
            yield Contradiction(
                "model_name",
                f"would put the staging above bintarball references, which are below {DEPLOYMENTS}",
                _DESTINATION,
            )
        if self.source_bucket == self.bucket and self.source_key.startswith(self.prefix):
            yield Contradiction(
                "source",
                "is inside the destination prefix: it would be overwritten by its own staging",
                _DESTINATION,
            )
        if self.bintarball_reference and self.server_path is None:
            yield Contradiction("server_path", f"is not set ({option('bintarball_reference')} needs it)")
        if self.server_bucket == self.bucket and self.server_key.startswith(self.prefix):
            yield Contradiction(
                "server_path",
                "is inside the destination prefix, which belongs to the staging alone",
                _DESTINATION,
            )
        yield from _repeated("replicate_to", self.replicate_to, self.place)
        for place in self.replicate_to if self.source_endpoint_url in {None, self.endpoint_url} else ():
            levels = levels_of(place)
            bucket, prefix = levels.pop("bucket"), prefix_of(self.mode, **levels)
            for read, key in ((self.source_bucket, self.source_key), (self.server_bucket, self.server_key)):
                if (read, key[: len(prefix)]) == (bucket, prefix):
                    yield Contradiction(
                        "replicate_to",
                        f"names {place}, which contains the source of the staging, s3://{read}/{key}",
                    )

    def _too_long(self) -> Iterator[Contradiction]:
        if len(prefix_of(None, self.env, self.model_name, self.model_version)) > LONGEST_PLACE:
            longest = max(("env", "model_name", "model_version"), key=lambda name: len(getattr(self, name)))
            yield Contradiction(longest, _TOO_LONG, _DESTINATION)
            return
        name = self.source_key.rpartition("/")[2]  # empty, or a glob, until it is found
        key = Layout(self.bucket, self.prefix).of_source(name)
        if self.mode == "full" and not GLOB.search(name) and len(key.encode()) > LONGEST_KEY:
            yield Contradiction(
                "source", f"has a name that makes a key of more than {LONGEST_KEY:,} bytes", _DESTINATION
            )

    @property
    def mode(self) -> Literal["full", "reference_only", "bintarball_reference"]:
        """Which of the three modes of staging this is."""
        if self.bintarball_reference:
            return "bintarball_reference"
        return "reference_only" if self.reference_only else "full"

    @property
    def source_bucket(self) -> str:
        """The source's bucket."""
        return bucket_of(self.source)

    @property
    def source_key(self) -> str:
        """The source's key, prefix or pattern."""
        return key_of(self.source)

    @property
    def server_bucket(self) -> str:
        """The container image's bucket: the destination's unless the path is a URI."""
        path = self.server_path or ""
        return bucket_of(path) if path.startswith("s3://") else self.bucket

    @property
    def server_key(self) -> str:
        """The container image's key."""
        path = self.server_path or ""
        return key_of(path) if path.startswith("s3://") else path

    @property
    def model_architecture(self) -> str:
        """The architecture: as given, or the one that the model's name contains, else "unknown"."""
        words = re.split(r"[^a-z0-9]+", self.model_name.lower())
        return self.architecture or next((kind for kind in _ARCHITECTURES if kind in words), "unknown")

    @property
    def place(self) -> str:
        """``s3://bucket/ENV/NAME/VERSION/``, whatever the mode."""
        return f"s3://{self.bucket}/{prefix_of(None, self.env, self.model_name, self.model_version)}"

    @property
    def prefix(self) -> str:
        """Key prefix of the staging, with its closing slash."""
        return prefix_of(self.mode, self.env, self.model_name, self.model_version)

    @property
    def destination(self) -> str:
        """``s3://bucket/prefix/`` of the staging."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def places(self) -> tuple[str, ...]:
        """The destination, then its replicas."""
        return (self.destination, *self.replicate_to)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of every object; none unless requested. S3 allows at most 256 characters in a value."""
        if not self.tag:
            return {}
        return {"retention-days": str(self.retention_days), "model-name": self.model_name[:256]}

    def plan_for(self, size: int, most_parts: int = MOST_PARTS) -> MemoryPlan:
        """How the memory is divided for a source of ``size`` bytes.

        Raises:
            ConfigurationError: the memory is too small for parts of the size that is needed.
        """
        return plan_memory(
            self.memory,
            self.part_size_for(size, most_parts),
            forced=self.why_larger(size, most_parts),
        )

    def why_larger(self, size: int, most_parts: int = MOST_PARTS) -> str:
        """Why the parts of such an object are larger than requested; empty where they are not."""
        part = self.part_size_for(size, most_parts)
        if part == self.part_size:
            return ""
        return (
            f"the store takes at most {most_parts:,} parts of an upload, so {human_size(size)} need parts of "
            f"{part // MIB} MiB"
        )

    def part_size_for(self, size: int, most_parts: int = MOST_PARTS) -> int:
        """Bytes of a part for an object of ``size`` bytes: at most ``most_parts`` parts, in whole MiB."""
        least = -(-size // most_parts)
        return self.part_size if least <= self.part_size else -(-least // MIB) * MIB


class Levels(BaseModel):
    """The components of a place, each validated by itself."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    bucket: Annotated[str, AfterValidator(_bucket)]
    env: Segment
    model_name: Segment
    model_version: Segment

    @property
    def place(self) -> str:
        """The place."""
        return f"s3://{self.bucket}/{self.env}/{self.model_name}/{self.model_version}/"


class PromoteRequest(Request):
    """A committed staging to be copied to one or more other places."""

    source: Annotated[str, AfterValidator(_staging)]
    """``s3://bucket/ENV/NAME/VERSION/`` of a committed staging, or the URI of a bintarball reference."""
    to: Annotated[tuple[Place, ...], Filled]
    """``s3://bucket/ENV/NAME/VERSION/`` of each place."""
    deep: bool = False
    """Read every byte of the source staging on the way, and compare its SHA-256, even where the store copies it."""
    retention_days: int | None = Field(default=None, ge=1, le=36500)
    """None: that of the source staging."""

    def _contradictions(self) -> Iterator[Contradiction]:
        yield from super()._contradictions()
        elsewhere = self.source_endpoint_url not in {None, self.endpoint_url}
        yield from _repeated("to", self.to, "" if elsewhere else place_of(self.source))

    @property
    def places(self) -> tuple[str, ...]:
        """The source, and the destinations in any mode."""
        return (
            self.source,
            *self.to,
            *(f"s3://{bucket}/{DEPLOYMENTS}{key}" for bucket, key in map(split_uri, self.to)),
        )

    def stage_request(self, place: str, run_id: str, **fields: object) -> StageRequest:
        """The staging request that a promotion to one place amounts to.

        Args:
            place: one of ``to``.
            run_id: of that run.
            fields: those that the source staging has recorded.
        """
        request = StageRequest.model_validate(fields | levels_of(place))
        return request.with_valid(self.shared() | {"run_id": run_id})


def levels_of(place: str) -> dict[str, str]:
    """The request fields that a :data:`Place` consists of."""
    bucket, key = split_uri(place)
    env, model_name, model_version = key.rstrip("/").split("/")
    return {"bucket": bucket, "env": env, "model_name": model_name, "model_version": model_version}


def _repeated(field: str, places: tuple[str, ...], own: str) -> Iterator[Contradiction]:
    """Places that are named twice, or are the staging's own."""
    if own in places:
        yield Contradiction(field, f"names {own}, where the staging itself is", _DESTINATION)
    if twice := [place for place, count in Counter(places).items() if count > 1]:
        yield Contradiction(field, f"names {twice[0]} more than once")
