"""From flags, the environment and ``.env`` to a request, or to the endpoint of a command that stages nothing.

:func:`load` returns a :class:`~riva_stream.config.StageRequest`, or raises one error that lists everything that is
missing or malformed. It changes nothing. Credentials in a ``.env`` are returned in :attr:`Loaded.environment`, for the
command line to set in its own process, where the AWS libraries look for them.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field

from riva_stream.cli.settings.env_file import EnvFile, read_env_file
from riva_stream.cli.settings.model import SWITCH, TRACE, Settings, read_settings
from riva_stream.cli.settings.places import Origin, Places, Value, as_switch
from riva_stream.cli.settings.problems import check
from riva_stream.config import ProblemCode, StageRequest, Stores, Wrong
from riva_stream.errors import ConfigurationError
from riva_stream.events import Warned
from riva_stream.inspection.uris import STAGING, split_staging
from riva_stream.layout import prefix_of

if TYPE_CHECKING:
    from riva_stream.s3 import StoreSettings

__all__ = ["Endpoint", "Loaded", "load", "load_endpoint"]

M = TypeVar("M", bound=BaseModel)

_USUAL_ENVIRONMENTS = ("prod", "staging", "dev")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_MODES = ("bintarball_reference", "reference_only")
"""If both are set in the same place, the first wins: it moves and writes the least."""
_LEVELS = ("env", "model_name", "model_version")
_ARCHIVE = re.compile(r"(\.tar\.gz|\.tgz|\.tar\.zst|\.tar|\.riva)$", re.IGNORECASE)
_VERSION = re.compile(r"_(v\d+(?:\.\d+)*)(?![A-Za-z0-9.])")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What :func:`load` found."""

    request: StageRequest
    warnings: tuple[Warned, ...]
    env_file: Path | None
    """The ``.env`` that was read."""
    environment: Mapping[str, str] = field(repr=False)
    """AWS variables of the ``.env`` (credentials among them) that the process environment lacks."""
    trace: bool = False
    """TRACE requests what ``--debug`` shows."""


class Endpoint(Stores):
    """How to reach a store, for commands that stage nothing."""

    environment: Mapping[str, str] = Field(default_factory=dict, repr=False)
    bucket: str | None = None
    """The bucket of stagings."""
    prefix: str | None = None
    """Prefix of the staging that the settings name, with its closing slash; None when they name none."""
    dry_run: bool | None = None
    """The value of the switch, where it counts; None: not set."""
    warnings: tuple[Warned, ...] = ()

    def store(self) -> StoreSettings:
        """The settings of this store."""
        from riva_stream.s3 import StoreSettings, WriteOptions  # noqa: PLC0415 - the AWS libraries come with it

        return StoreSettings(
            region=self.region,
            endpoint_url=self.endpoint_url,
            profile=self.profile,
            ca_bundle=self.ca_bundle,
            addressing=self.addressing,
            options=WriteOptions(request_payer=self.request_payer),
        )

    def staging(self, text: str | None) -> tuple[str, str]:
        """Bucket and prefix, with its closing slash, of one staging; by default the one that the settings of stage name.

        Raises:
            ConfigurationError: no staging is named.
        """
        if text is None:
            if self.bucket and self.prefix:
                return self.bucket, self.prefix
            raise ConfigurationError(
                "no staging is named, and the settings of stage do not name one either",
                hint=f"for example: {STAGING}; or set NVIDIA_DRIVERS_S3_BUCKET, ENV, RIVA_ASR_MODEL_NAME and MODEL_VERSION",
            )
        return split_staging(text)


def load(flags: Mapping[str, object], *, env_file: Path | EnvFile | None = None) -> Loaded:
    """Build a request from ``flags``, then the process environment, then ``env_file``, in this order of precedence.

    Args:
        flags: fields of :class:`~riva_stream.config.StageRequest`, and ``mode``, which overrides all variables
            about the mode; None and empty strings count as not given.
        env_file: a ``.env`` that must exist, or one that was read already; None: see
            :mod:`~riva_stream.cli.settings.env_file`.

    Raises:
        ConfigurationError: the file cannot be read, or settings are missing or malformed
            (:class:`~riva_stream.cli.settings.problems.SettingsError` then lists all of them).
    """
    draft = _Draft(flags, env_file, {})
    trace = draft.places.find(TRACE)
    traced = trace is not None and draft.switch("debug", trace)
    request = draft.checked(StageRequest, draft.values, draft.wrong)
    if request.env not in _USUAL_ENVIRONMENTS:
        draft.warn(
            "unusual-env", f"ENV is {request.env!r}, which is not one of {', '.join(_USUAL_ENVIRONMENTS)}"
        )
    return Loaded(
        request, tuple(draft.warnings), draft.places.file.path, _environment_of(draft.places), traced
    )


def load_endpoint(
    flags: Mapping[str, object],
    *,
    env_file: Path | EnvFile | None = None,
    fallback: Mapping[str, str | None] | None = None,
    switches: Collection[str] = (),
) -> Endpoint:
    """The endpoint and the credentials, from the same places and in the same order as :func:`load`.

    Args:
        flags: as there; those not needed here are ignored.
        env_file: as there.
        fallback: values of fields that no source sets.
        switches: fields of :class:`Endpoint` that apply as well, and must be yes or no.

    Raises:
        ConfigurationError: the file cannot be read, or settings are malformed, or neither a region nor an endpoint is set
            (:class:`~riva_stream.cli.settings.problems.SettingsError`).
    """
    counted = (*Stores.model_fields, *switches)
    draft = _Draft({name: flags.get(name) for name in counted}, env_file, fallback or {})
    values = draft.values
    reach = {name: values[name] for name in (*counted, "bucket") if name in values}
    if all(name in values for name in _LEVELS) and not draft.wrong.keys() & {*_LEVELS, *_MODES}:
        mode = next((name for name in _MODES if values.get(name)), None)
        reach["prefix"] = prefix_of(mode, *(str(values[name]) for name in _LEVELS))
    wrong = {name: draft.wrong[name] for name in switches if name in draft.wrong}
    return draft.checked(Endpoint, reach, wrong).model_copy(
        update={"environment": _environment_of(draft.places), "warnings": tuple(draft.warnings)}
    )


class _Draft:
    """What is known about each setting, before anything is validated: aliases are resolved, switches parsed."""

    def __init__(
        self,
        flags: Mapping[str, object],
        env_file: Path | EnvFile | None,
        fallback: Mapping[str, str | None],
    ) -> None:
        file = env_file if isinstance(env_file, EnvFile) else read_env_file(env_file)
        self.places = Places(file)
        self.warnings = list(file.warnings)
        self.wrong: dict[str, Wrong] = {}
        """What is wrong with a setting beyond its value being malformed."""
        self.origins: dict[str, Origin] = {}
        self._given: dict[str, Any] = {
            name: value for name, value in flags.items() if value not in (None, "", ())
        }
        mode = self._given.pop("mode", None)
        found = dict(read_settings(self._given, self.places))
        self._found = {name: value for name, value in found.items() if isinstance(value, Value)}
        self.values: dict[str, Any] = {name: value for name, value in fallback.items() if value} | self._given
        for name, value in found.items():
            if isinstance(value, Value):
                self.values[name], self.origins[name] = value.text, value.origin
            elif value is not None and Settings.variables(name):
                self.values[name] = value
                self.origins[name] = Origin(Settings.usual(name), "the flag")
        self._read_regions()
        self._read_profile()
        self._compare_keys()
        self._read_switches(mode)
        self._read_aliases()

    def checked(self, kind: type[M], values: Mapping[str, Any], wrong: Mapping[str, Wrong]) -> M:
        """The model that the settings make.

        Raises:
            SettingsError: some are missing or malformed.
        """
        try:
            return check(values, self.origins, wrong, kind=kind)
        except ConfigurationError as error:
            error.ignored = tuple(warning.message for warning in self.warnings)
            raise

    def warn(self, code: str, message: str) -> None:
        """Add a warning, which does not end the run."""
        self.warnings.append(Warned(code=code, message=message))

    def switch(self, name: str, value: Value) -> bool:
        """The value of a switch's variable; a word that is neither yes nor no is recorded as wrong."""
        self.origins[name] = value.origin
        switch = as_switch(value.text)
        if switch is None:
            self.wrong[name] = Wrong(
                "malformed",
                "is neither true nor false (1/0, true/false, yes/no and on/off are accepted)",
            )
        return bool(switch) != (name == "no_checksum")  # whose variable means the opposite

    def _read_regions(self) -> None:
        """Take regions from profiles. Keys that outrank AWS_PROFILE leave its region, as in the AWS libraries."""
        for name, profile in (("source_region", "source_profile"), ("region", "profile")):
            if name in self.values or (name == "source_region" and profile not in self.values):
                continue
            environment = {**self.places.file.values, **self.places.environment}
            if (found := _region_of_profile(self.values.get(profile), environment)) is not None:
                self.values[name], path = found
                self.origins[name] = Origin(Settings.usual(name), f"the AWS configuration, {path}")

    def _read_profile(self) -> None:
        """Drop an AWS_PROFILE that keys outrank: passed explicitly, as here, it would win in the AWS libraries."""
        profile = self._found.get("profile")
        if profile is None:
            return
        from_file = profile.origin.place != self.places.names[0]
        if self.places.environment.get(_KEYS[0]) or (from_file and self.places.file.values.get(_KEYS[0])):
            del self.values["profile"]
            self.warn(
                "profile-outranked",
                "AWS_PROFILE is not used: AWS_ACCESS_KEY_ID is set too and wins; pass --profile to use it",
            )

    def _compare_keys(self) -> None:
        """Warn of keys in the file that are not used: key, secret and token are taken from one place."""
        here, environment = _key_here(self.places), self.places.environment
        if apart := [
            name for name in _KEYS if here and self.places.file.values.get(name) and not environment.get(name)
        ]:
            self.warn(
                "keys-apart",
                f"{' and '.join(apart)} of {self.places.file.path} not used: {here} is set in the environment, and "
                "key, secret and token are taken from one place",
            )

    def _read_switches(self, mode: object) -> None:
        for name, value in self._found.items():
            if Settings.example(name) == SWITCH and name not in _MODES:
                self.values[name] = self.switch(name, value)
        if mode is None and not self._given.keys() & {*_MODES}:
            mode = self._mode()
        if mode is not None:
            self.values.update({name: name == mode for name in _MODES})

    def _mode(self) -> str:
        """The mode that the variables set, by precedence of their places."""
        asked = {
            name: self._found[name].origin.place
            for name in _MODES
            if name in self._found and self.switch(name, self._found[name])
        }
        for place in self.places.names:
            modes = [name for name in _MODES if asked.get(name) == place]
            if len(modes) > 1:
                names = " and ".join(Settings.usual(name) for name in reversed(modes))
                self.warn("two-modes", f"{names} are both set: staging by --bintarball-reference")
            if modes:
                return modes[0]
        return "full"

    def _read_aliases(self) -> None:
        """Resolve aliases that are more than another name: docs/configuration.md has the table."""
        if (alias := self._alias("env")) and alias.text.isdigit():
            self._refuse(
                "env", "missing", "is not set (ENV_VERSION is all digits: a counter, not an environment)"
            )
        if (alias := self._alias("source")) and alias.origin.variable == "RIVA_MODEL_PATH":
            self._read_path(alias)
        if alias := self._alias("model_name"):
            self.values["model_name"] = _ARCHIVE.sub("", alias.text)
        if self._alias("model_version"):
            self._read_version()

    def _alias(self, name: str) -> Value | None:
        found = self._found.get(name)
        return found if found is not None and found.origin.variable in Settings.aliases(name) else None

    def _read_path(self, path: Value) -> None:
        """Resolve a RIVA_MODEL_PATH without a bucket: it is a key in the bucket of the models."""
        if "://" in path.text or path.text.startswith("/"):
            return
        bucket = self.places.word("RIVA_MODELS_S3_BUCKET") or self.values.get("bucket")
        if bucket is None:
            self._refuse(
                "source",
                "malformed",
                "is a key without a bucket, and RIVA_MODELS_S3_BUCKET is not set either",
                path.origin,
            )
        else:
            self.values["source"] = f"s3://{bucket}/{path.text}"

    def _read_version(self) -> None:
        """Take the version from RIVA_MODEL_SELECTED or RIVA_MODEL, which may hold a file's name."""
        aliases = Settings.aliases("model_version")
        named = [value for variable in aliases if (value := self.places.find(variable))]
        for value in named:
            if found := _VERSION.findall(_ARCHIVE.sub("", value.text)):
                self.values["model_version"], self.origins["model_version"] = found[-1], value.origin
                return
        self._refuse(
            "model_version",
            "missing",
            f"is not set, and {named[0].origin.variable} has no version to take it from, such as the _v8.1 of "
            "model_v8.1.tar.gz",
        )

    def _refuse(self, name: str, code: ProblemCode, text: str, origin: Origin | None = None) -> None:
        """Discard a value that is not valid for the setting."""
        del self.values[name], self.origins[name]
        self.wrong[name] = Wrong(code, text)
        if origin is not None:
            self.origins[name] = origin


def _key_here(places: Places) -> str | None:
    """The variable of a key or secret that the process environment has."""
    return next((name for name in _KEYS[:2] if places.environment.get(name)), None)


def _environment_of(places: Places) -> dict[str, str]:
    """AWS variables of the file (credentials among them) that the process environment lacks."""
    ours = {variable for name in Settings.model_fields for variable in Settings.variables(name)}
    # Key, secret and token belong together: one half from each place would be refused as a wrong signature.
    skipped = set(_KEYS) if _key_here(places) else set()
    return {
        name: value
        for name, value in places.file.values.items()
        if name.startswith("AWS_") and name not in ours | skipped and not places.environment.get(name)
    }


def _region_of_profile(profile: str | None, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The region of a profile, and the file that has it, as the SDKs read it; None where it has none.

    A region is needed before the AWS libraries are loaded, and it is used in documents and policies.

    Args:
        profile: its name; None, or one that does not exist: ``default``.
        environment: where AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE are looked up.
    """
    files = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    found: dict[str, tuple[str, str] | None] = {}
    for variable, usual in files:
        path = Path(os.path.expandvars(environment.get(variable) or usual)).expanduser()
        parser = configparser.RawConfigParser()
        with suppress(OSError, UnicodeDecodeError, configparser.Error):  # reported when the SDK reads it
            if path.is_file():  # as the SDK checks too: opening a pipe would block
                parser.read(path)
        for section in parser.sections():
            name = _profile_of(section, every=variable != files[0][0])
            region = parser.get(section, "region", fallback="").strip()
            if name and (region or name not in found):  # the second file wins, as in the SDKs
                found[name] = (region, str(path)) if region else found.get(name)
    return found[profile] if profile in found else found.get("default")


def _profile_of(section: str, *, every: bool) -> str:
    """The profile that a section defines: in the configuration file only ``default`` and ``profile NAME`` are ones."""
    if every or section == "default":
        return section
    with suppress(ValueError):
        words = shlex.split(section)
        if words[:1] == ["profile"] and words[1:]:
            return words[1]
    return ""
