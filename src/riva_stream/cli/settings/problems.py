"""All that is wrong with a set of settings, reported at once, each with an example of what is valid."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from riva_stream.cli.settings.model import SWITCH, Settings
from riva_stream.cli.settings.places import Origin
from riva_stream.config import Wrong, contradictions_in, reason_of
from riva_stream.errors import ConfigurationError
from riva_stream.sizes import human_size

__all__ = ["Problem", "SettingsError", "check", "malformed"]

R = TypeVar("R", bound=BaseModel)

_WRONG = {
    "acl": "is not a canned access control list of objects",
    "language": "is not a language code: letters, digits and '-', at most 35",
    "expected_bucket_owner": "is not an AWS account id: 12 digits",
}
_BYTES = ("part_size", "memory", "max_header_bytes", "max_expanded", "max_zstd_window")
_REGION = re.compile(r"[A-Za-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that is missing or malformed."""

    setting: str
    flag: str
    variable: str
    """Empty for a setting that only has a flag."""
    code: str
    """``missing``, ``malformed``, or ``contradiction`` for one that contradicts others."""
    wrong: str
    example: str
    found_in: str
    """The flag, the environment or a file; empty when it is missing."""

    def __str__(self) -> str:
        names = f"{self.flag} or {self.variable}" if self.variable else self.flag
        found = f" (found in {self.found_in})" if self.found_in else ""
        example = f"{self.flag} {self.example}"
        if self.example == SWITCH:
            names, example = self.variable, f"{self.variable}={self.example}"
        return f"{names} {self.wrong}{found}\n    for example: {example}"


class SettingsError(ConfigurationError):
    """Settings are missing or malformed; ``problems`` holds every one of them."""

    problems: tuple[Problem, ...] = ()


def check(
    values: Mapping[str, Any],
    origins: Mapping[str, Origin],
    known: Mapping[str, Wrong],
    *,
    kind: type[R],
) -> R:
    """Make the request, or report everything that is wrong with it.

    Args:
        values: what was found for each field.
        origins: where it was found; a field without one came from its flag.
        known: what was already found to be wrong with a setting, before its value could be validated.
        kind: a request, or another model made from settings.

    Raises:
        SettingsError: something is missing or malformed.
    """
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    wrong = {name: Wrong("missing", "is not set") for name in required if name not in values}
    if "region" not in values and "endpoint_url" not in values:
        wrong["region"] = Wrong("missing", "is not set (it may be left out only with an endpoint URL)")
    # Stand-ins keep one missing setting from hiding what is wrong with the others.
    stand_ins = {name: Settings.example(name) for name in required if name not in values}
    wrong |= malformed(kind, stand_ins | dict(values)) | dict(known)
    right = {name: value for name, value in values.items() if name not in wrong}
    wrong |= _contradictions(kind, {name: Settings.example(name) for name in required} | right, wrong)
    if not wrong:
        return kind.model_validate(values)
    problems = tuple(
        Problem(
            setting=name,
            flag="--" + name.replace("_", "-"),
            variable=origins[name].variable if name in origins else Settings.usual(name),
            code=wrong[name].code,
            wrong=wrong[name].text,
            example=Settings.example(name),
            found_in=origins[name].place if name in origins else "",
        )
        for name in dict.fromkeys((*Settings.model_fields, *wrong))
        if name in wrong
    )
    count = "a setting is" if len(problems) == 1 else f"{len(problems)} settings are"
    error = SettingsError(
        f"{count} missing or malformed",
        hint="give each as a flag, in the environment or in .env (flags win, then the environment)",
    )
    error.problems = problems
    raise error


def malformed(kind: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Wrong]:
    """What is wrong with each field by itself, or with each of several entries of one field."""
    texts = {
        name: "is not the name of a region"
        for name in ("region", "source_region")
        if name in values and not _REGION.fullmatch(str(values[name]))
    }
    if "ca_bundle" in values and not Path(values["ca_bundle"]).is_file():
        texts["ca_bundle"] = "names no file"
    entries: dict[str, list[str]] = {}
    for item in _errors(kind, values):
        if item["loc"]:
            name = str(item["loc"][0])
            text = _WRONG.get(name) or reason_of(item, human_size if name in _BYTES else "{:g}".format)
            several = isinstance(values.get(name), list | tuple) and len(values[name]) > 1
            number = f"number {item['loc'][1] + 1} " if several and len(item["loc"]) > 1 else ""
            entries.setdefault(name, []).append(number + text)
    texts |= {name: "; ".join(found) for name, found in entries.items()}
    return {name: Wrong("malformed", text) for name, text in texts.items()}


def _contradictions(
    kind: type[BaseModel], right: Mapping[str, Any], wrong: Mapping[str, Wrong]
) -> dict[str, Wrong]:
    """Contradictions between fields, as far as the fields are valid by themselves."""
    return {
        each.field: Wrong("contradiction", each.text)
        for each in contradictions_in(_errors(kind, right))
        if each.field not in wrong and not wrong.keys() & each.presumed
    }


def _errors(kind: type[BaseModel], values: Mapping[str, Any]) -> list[Any]:
    try:
        kind.model_validate(values)
    except ValidationError as error:
        return list(error.errors(include_url=False, include_input=False))
    return []
