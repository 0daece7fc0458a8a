"""The other names under which later versions of the pipeline keep the same settings, and its switches.

An alias is asked only when nothing has the setting's own name, neither a flag nor a variable in any place: the older
name wins. What each stands for is the table in docs/configuration.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from riva_stream.events import Warned
from riva_stream.settings_check import Origin

__all__ = ["ALIASES", "SWITCHES", "Layers", "Resolution", "Value", "read_mode", "read_switch", "resolve"]

ALIASES: dict[str, tuple[str, ...]] = {
    "source": ("RIVA_ASR_MODEL_SOURCE_URI", "RIVA_MODEL_PATH"),
    "bucket": ("RIVA_MODELS_S3_BUCKET",),
    "env": ("ENV_VERSION",),
    "model_name": ("RIVA_MODEL", "RIVA_MODEL_SELECTED"),
    "model_version": ("RIVA_MODEL_SELECTED", "RIVA_MODEL"),
    "language": ("RIVA_LANGUAGE_CODE",),
}
"""Variables of each setting beside its own, in the order in which they are asked."""
SWITCHES = ("reference_only", "bintarball_reference", "force", "dry_run", "no_checksum")
_INVERTED = ("no_checksum",)
"""Switches whose variable says the opposite: CHECKSUM_VALIDATION=false is --no-checksum."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_NEITHER = "is neither true nor false (1/0, true/false, yes/no and on/off are understood)"
_ARCHIVE = re.compile(r"(\.tar\.gz|\.tgz|\.tar\.zst|\.tar|\.riva)$", re.IGNORECASE)
_VERSION = re.compile(r"_(v\d+(?:\.\d+)*)(?![A-Za-z0-9.])")


@dataclass(frozen=True, slots=True)
class Value:
    """A variable that is set, and where."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Layers:
    """The places where a variable may stand, the stronger one first: a name of each place, and what is there."""

    places: tuple[tuple[str, Mapping[str, str]], ...]

    def find(self, *variables: str) -> Value | None:
        """The first of ``variables`` in the first place that has any of them; an empty value counts as none."""
        for place, layer in self.places:
            for variable in variables:
                if text := layer.get(variable, "").strip():
                    return Value(text, Origin(variable, place))
        return None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is known of each setting so far; :func:`resolve` fills it up."""

    values: dict[str, Any]
    origins: dict[str, Origin]
    wrong: dict[str, str]
    """What is wrong with a setting beyond its value being malformed."""
    warnings: list[Warned]

    def take(self, name: str, value: Any, origin: Origin) -> None:
        """This is the setting's value."""
        self.values[name], self.origins[name] = value, origin


def resolve(so_far: Resolution, layers: Layers) -> None:
    """Fill in what aliases tell of the settings that have no value yet."""
    _where_to(so_far, layers)
    _source(so_far, layers)
    _name_and_version(so_far, layers)


def read_switch(so_far: Resolution, name: str, value: Value) -> bool:
    """The switch ``name`` as its variable has it; a word that is neither yes nor no is noted as wrong."""
    so_far.origins[name] = value.origin
    word = value.text.lower()
    if word not in _TRUE | _FALSE:
        so_far.wrong[name] = _NEITHER
    return (word in _TRUE) != (name in _INVERTED)


def is_asked(variable: str, in_file: Mapping[str, str]) -> bool:
    """Whether a switch is on, for whoever must know before the settings are checked."""
    return (os.environ.get(variable) or in_file.get(variable) or "").strip().lower() in _TRUE


def read_mode(
    so_far: Resolution, layers: Layers, variables: Mapping[str, str]
) -> Literal["full", "reference_only", "bintarball_reference"]:
    """The mode that the variables ask for.

    The stronger place wins; where both stand in the same place it is BINTARBALL_REFERENCE, with a warning: it moves
    and writes the least.
    """
    asked: dict[str, str] = {}
    for name, variable in variables.items():
        value = layers.find(variable)
        if value is not None and read_switch(so_far, name, value):
            asked[name] = value.origin.place
    for place, _ in layers.places:
        modes = [name for name, found in asked.items() if found == place]
        if len(modes) > 1:
            names = " and ".join(variables[name] for name in modes)
            so_far.warnings.append(
                Warned(code="two-modes", message=f"{names} are both set: staging by --bintarball-reference")
            )
        if "bintarball_reference" in modes:
            return "bintarball_reference"
        if modes:
            return "reference_only"
    return "full"


def _where_to(so_far: Resolution, layers: Layers) -> None:
    for name in ("bucket", "language"):
        if name not in so_far.values and (value := layers.find(*ALIASES[name])):
            so_far.take(name, value.text, value.origin)
    if "env" not in so_far.values and (value := layers.find(*ALIASES["env"])):
        if value.text.isdigit():
            so_far.wrong["env"] = "is not set (ENV_VERSION is all digits: a counter, not an environment)"
        else:
            so_far.take("env", value.text, value.origin)


def _source(so_far: Resolution, layers: Layers) -> None:
    """The source; a RIVA_MODEL_PATH without a bucket is a key in the bucket of the models."""
    if "source" in so_far.values or (value := layers.find(*ALIASES["source"])) is None:
        return
    source = value.text
    if value.origin.variable == "RIVA_MODEL_PATH" and "://" not in source and not source.startswith("/"):
        models = layers.find("RIVA_MODELS_S3_BUCKET")
        bucket = models.text if models else so_far.values.get("bucket")
        if bucket is None:
            so_far.wrong["source"] = "is a key without a bucket, and RIVA_MODELS_S3_BUCKET is not set either"
            so_far.origins["source"] = value.origin
            return
        source = f"s3://{bucket}/{source}"
    so_far.take("source", source, value.origin)


def _name_and_version(so_far: Resolution, layers: Layers) -> None:
    """Name and version of what RIVA_MODEL_SELECTED or RIVA_MODEL name, which may be a file's name."""
    if "model_name" not in so_far.values and (value := layers.find(*ALIASES["model_name"])):
        so_far.take("model_name", _ARCHIVE.sub("", value.text), value.origin)
    if "model_version" in so_far.values:
        return
    named = [value for variable in ALIASES["model_version"] if (value := layers.find(variable))]
    for value in named:
        if found := _VERSION.findall(_ARCHIVE.sub("", value.text)):
            so_far.take("model_version", found[-1], value.origin)
            return
    if named:
        variable = named[0].origin.variable
        so_far.wrong["model_version"] = (
            f"is not set, and {variable} has no version to take it from, such as the _v8.1 of model_v8.1.tar.gz"
        )
