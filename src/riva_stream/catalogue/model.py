"""The structure of a catalogue: defaults, environments, and entries with the fields of a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
)

from riva_stream.config import Filled, Segment, StageRequest
from riva_stream.sizes import parse_duration, parse_interval, parse_size, plain

__all__ = ["LEVELS", "PLACE", "Catalogue", "Entry", "catalogue_schema"]

LEVELS = ("bucket", "env", "model_name", "model_version")
"""Fields of a request that make up its destination's URI."""
PLACE = (
    *(*LEVELS, "region", "endpoint_url", "profile", "ca_bundle", "addressing"),
    *("acl", "sse", "kms_key_id", "storage_class", "expected_bucket_owner"),
)  # fmt: skip
"""Fields of a request that say where a staging goes, and how it is stored there; all others are about its content."""
_NOT_IN_A_FILE = ("env", "replicate_to", "run_id", "dry_run", "state_dir")
"""In a catalogue, ``env`` may be a list, and replicas may be tables; the others belong to the command."""
_PARSERS: Mapping[str, tuple[Callable[[str], float | None], type]] = {
    **dict.fromkeys(
        ("memory", "part_size", "max_header_bytes", "max_expanded", "max_zstd_window"), (parse_size, int)
    ),
    **dict.fromkeys(("timeout", "deadline", "lease"), (parse_duration, float)),
    "checkpoint": (parse_interval, int),
}
"""Fields that may be written as on the command line, and their numeric types."""
_URI = re.compile(r"s3://([^/]+)(?:/([^/]+)/([^/]+)/([^/]+))?/?")


def _number(name: str, value: object) -> object:
    """Parse a value as its flag does: a number, or a text with a unit."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    found = _PARSERS[name][0](plain(value) if isinstance(value, float) else str(value))
    return StageRequest.model_fields[name].default if found is None else found


def _of_its_kind(kinds: frozenset[type], value: object) -> object:
    """Validate against the JSON Schema's types: Pydantic would take ``true`` for 1 and ``"yes"`` for ``true``."""
    if isinstance(value, bool) and bool not in kinds:
        raise ValueError("is true or false, which means nothing here")
    if not isinstance(value, bool | None) and bool in kinds:
        raise ValueError("is neither true nor false")
    if isinstance(value, str | bytes) and kinds & {int, float}:
        raise ValueError("is text, not a number")
    return value


def _kinds(annotation: Any) -> frozenset[type]:
    """The types that a field may have."""
    inner = frozenset().union(*map(_kinds, get_args(annotation)))
    return inner | {annotation} if isinstance(annotation, type) else inner


def _tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _place(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _URI.fullmatch(value)
    if match is None:
        raise ValueError("is neither s3://BUCKET nor s3://BUCKET/ENV/MODEL_NAME/MODEL_VERSION/")
    return {name: text for name, text in zip(LEVELS, match.groups(), strict=True) if text is not None}


def _fields(*names: str) -> dict[str, Any]:
    """Fields of a request as a catalogue may have them: none is required, sizes and durations may have a unit."""
    fields: dict[str, Any] = {}
    for name in names:
        info = StageRequest.model_fields[name]
        kind = info.rebuild_annotation()
        kind = Annotated[
            kind, BeforeValidator(partial(_of_its_kind, _kinds(info.annotation)), json_schema_input_type=kind)
        ]
        if name in _PARSERS:
            kinds = _PARSERS[name][1] | str
            kind = Annotated[kind, BeforeValidator(partial(_number, name), json_schema_input_type=kinds)]
        fields[name] = (kind, Field(default=None, json_schema_extra=_without_default))
    return fields


def _without_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # a missing field has the default of a request


_CONFIG = ConfigDict(frozen=True, extra="forbid")

if TYPE_CHECKING:

    class _Place(BaseModel):
        bucket: str

    class _Fields(BaseModel):
        pass
else:
    _Place = create_model(
        "Place", __config__=_CONFIG, __doc__="A further place for a staging.", **_fields(*PLACE)
    )
    _Fields = create_model(
        "Fields",
        __config__=_CONFIG,
        __doc__="Fields of a request.",
        **_fields(*(name for name in StageRequest.model_fields if name not in _NOT_IN_A_FILE)),
    )


class _WithReplicas(_Fields):
    replicate_to: tuple[
        Annotated[_Place, BeforeValidator(_place, json_schema_input_type=_Place | str)], ...
    ] = ()
    """Further places of the same staging: ``s3://BUCKET`` (the same path there), a whole prefix, or a table of fields."""


class Environment(_WithReplicas):
    """What is different in one environment."""


class Defaults(_WithReplicas):
    """Values for all entries that do not set their own."""

    env: Annotated[
        tuple[Segment, ...], BeforeValidator(_tuple, json_schema_input_type=str | tuple[str, ...])
    ] = Field(default=(), json_schema_extra=_without_default)
    """One environment, or several: each entry is staged in each."""


class Entry(Defaults):
    """One archive, or with ``pattern`` all archives that match a prefix or a glob."""

    pattern: str | None = None
    """The end of a key: ``{model_name}-deployable_{model_version}.tar.gz``; ``*`` is any text without a slash."""


class Catalogue(BaseModel):
    """A list of stagings. An entry overrides its environment, which overrides the defaults."""

    model_config = _CONFIG

    defaults: Defaults = Defaults()
    environments: dict[Segment, Environment] = Field(default_factory=dict)
    staging: Annotated[tuple[Entry, ...], Filled] = Field(json_schema_extra={"minItems": 1})


def catalogue_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Catalogue.model_json_schema()}
