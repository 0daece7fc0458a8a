"""All that is wrong with a set of settings, said at once, each with what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError, Where
from riva_stream.memory import plan_memory
from riva_stream.sizes import human_size

__all__ = ["Origin", "Problem", "SettingsError", "check"]

# What a right value looks like. Every field of StageRequest that can be wrong has one: a test sees to it.
_EXAMPLES = {
    "source": "s3://my-models/parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz",
    "bucket": "my-staging-bucket",
    "env": "prod",
    "model_name": "parakeet-rnnt-en-us",
    "model_version": "v2025.09",
    "language": "en-US",
    "architecture": "rnnt",
    "description": "Parakeet RNNT 1.1B",
    "server_path": "s3://my-models/bintarball/riva-containers/riva-speech-2.15.0.tar.gz",
    "include": "'*.riva'",
    "expect_sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "region": "us-east-2",
    "profile": "staging",
    "source_region": "us-east-1",
    "source_endpoint_url": "https://s3.us-east-1.amazonaws.com",
    "source_profile": "models",
    "endpoint_url": "https://s3.us-east-2.amazonaws.com",
    "addressing": "virtual",
    "request_payer": "requester",
    "acl": "bucket-owner-full-control",
    "sse": "aws:kms",
    "kms_key_id": "alias/my-key",
    "storage_class": "INTELLIGENT_TIERING",
    "expected_bucket_owner": "111122223333",
    "ca_bundle": "/etc/ssl/certs/ca-certificates.crt",
    "part_size": "16MiB",
    "connections": "8",
    "memory": "256MiB",
    "timeout": "5m",
    "deadline": "2h",
    "retries": "8",
    "lease": "30s",
    "max_members": "100000",
    "max_models": "1000",
    "max_header_bytes": "1MiB",
    "max_expanded": "5TiB",
    "max_ratio": "100",
    "max_streams": "4000000",
    "max_zstd_window": "128MiB",
    "upload_check": "auto",
    "source_copy": "auto",
    "retention_days": "90",
    "state_dir": "./state",
    "run_id": "130-20250923-101500-0a1b2c3d",
}
_WRONG = {
    "acl": "is not a canned access control list of objects",
    "language": "is not a language code: letters, digits and '-', at most 35",
    "expected_bucket_owner": "is not an AWS account id: 12 digits",
}
_REQUIRED = ("source", "bucket", "env", "model_name", "model_version")
# Which other fields have to be right before a field's complaint about them means anything.
_DESTINATION = frozenset({"bucket", "env", "model_name", "model_version"})
_RELATED = {
    "kms_key_id needs": frozenset({"sse"}),
    "source lies": _DESTINATION,
    "server_path lies": _DESTINATION,
}
# A switch has no value on the command line; what can be wrong with it is what its variable says.
_SWITCH = "true"
_SIZES = ("part_size", "memory")
_BYTES = (*_SIZES, "max_header_bytes", "max_expanded", "max_zstd_window")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found: a variable's name, and the place it stands in."""

    variable: str
    place: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that is missing or malformed."""

    setting: str
    flag: str
    variable: str
    """Empty for a setting that only has a flag."""
    wrong: str
    example: str
    found_in: str = ""
    """The flag, the environment or a file; empty when it is missing."""

    def __str__(self) -> str:
        names = f"{self.flag} or {self.variable}" if self.variable else self.flag
        found = f" (found in {self.found_in})" if self.found_in else ""
        example = f"{self.flag} {self.example}"
        if self.example == _SWITCH:
            names, example = self.variable, f"{self.variable}={self.example}"
        return f"{names} {self.wrong}{found}\n    for example: {example}"


class SettingsError(ConfigurationError):
    """Settings are missing or malformed; ``problems`` holds every one of them."""

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        hint: str = "",
        problems: tuple[Problem, ...] = (),
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.what, self.where, self.hint, self.problems), {"ignored": self.ignored}


def _rebuild(what: str, where: Where, hint: str, problems: tuple[Problem, ...]) -> SettingsError:
    return SettingsError(what, where=where, hint=hint, problems=problems)


def check(
    values: Mapping[str, Any],
    origins: Mapping[str, Origin],
    variables: Mapping[str, str],
    known: Mapping[str, str] | None = None,
) -> StageRequest:
    """Make the request, or say everything that is wrong with it.

    Args:
        values: what was found for each field.
        origins: where it was found; a field without one came from its flag.
        variables: the usual environment variable of each field that has one.
        known: what is wrong with a setting already, before its value could be looked at.

    Raises:
        SettingsError: something is missing or malformed.
    """
    wrong = {name: "is not set" for name in _REQUIRED if name not in values}
    if "region" not in values and "endpoint_url" not in values:
        wrong["region"] = "is not set (it may be left out only with an endpoint URL)"
    # Stand-ins let one missing setting not hide what is wrong with the others.
    stand_ins = {name: _EXAMPLES[name] for name in _REQUIRED}
    wrong |= _each(stand_ins | dict(values)) | dict(known or {})
    wrong |= _together(values, wrong) | _memory(values, wrong)
    if not wrong:
        return StageRequest.model_validate(values)
    problems = tuple(
        Problem(
            setting=name,
            flag="--" + name.replace("_", "-"),
            variable=origins[name].variable if name in origins else variables.get(name, ""),
            wrong=wrong[name],
            example=_EXAMPLES.get(name, _SWITCH),
            found_in=origins[name].place if name in origins else "",
        )
        for name in dict.fromkeys((*StageRequest.model_fields, *wrong))
        if name in wrong
    )
    count = "a setting is" if len(problems) == 1 else f"{len(problems)} settings are"
    raise SettingsError(
        f"{count} missing or malformed",
        hint="give each as a flag, in the environment or in .env (flags win, then the environment)",
        problems=problems,
    )


def _each(values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with each field by itself."""
    wrong = {
        name: "is not the name of a region"
        for name in ("region", "source_region")
        if name in values and not _REGION.fullmatch(str(values[name]))
    }
    if "ca_bundle" in values and not Path(values["ca_bundle"]).is_file():
        wrong["ca_bundle"] = "names a file that does not exist"
    for item in _errors(values):
        if item["loc"]:
            name = str(item["loc"][0])
            wrong[name] = _WRONG.get(name) or _reason(name, item)
    return wrong


def _together(values: Mapping[str, Any], wrong: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with fields that do not fit each other, as far as they are right by themselves."""
    right = {name: value for name, value in values.items() if name not in wrong}
    found = {}
    for item in _errors({name: _EXAMPLES[name] for name in _REQUIRED} | right):
        for line in _reason("", item).splitlines():
            name, _, message = line.partition(" ")
            related = _RELATED.get(f"{name} {message.partition(' ')[0]}", frozenset())
            if name not in wrong and not wrong.keys() & related:
                found[name] = message
    return found


def _memory(values: Mapping[str, Any], wrong: Mapping[str, str]) -> dict[str, str]:
    if wrong.keys() & set(_SIZES):
        return {}
    try:
        plan_memory(
            *(values.get(name, StageRequest.model_fields[name].default) for name in ("memory", "part_size"))
        )
    except ConfigurationError as error:
        return {"memory": error.what.removeprefix("memory ")}
    return {}


def _errors(values: Mapping[str, Any]) -> list[Any]:
    try:
        StageRequest.model_validate(values)
    except ValidationError as error:
        return list(error.errors(include_url=False, include_input=False))
    return []


def _reason(name: str, item: Mapping[str, Any]) -> str:
    """Pydantic's message as the end of a sentence that begins with the setting's name."""
    limits = item.get("ctx", {})
    for key, words in (("ge", "at least"), ("le", "at most"), ("gt", "more than")):
        if key in limits:
            limit = human_size(limits[key]) if name in _BYTES else f"{limits[key]:g}"
            return f"must be {words} {limit}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return message.replace("Input should", "should", 1).replace("String should", "should", 1)
