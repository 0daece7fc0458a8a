"""Where a command line's settings come from: flags, then the process environment, then ``.env``.

:func:`load` gives a :class:`~riva_stream.config.StageRequest`, or one error that lists everything that is
missing or malformed. It reads; it changes nothing. Credentials that a ``.env`` holds are handed back in
:attr:`Loaded.environment`, for the command line to put into its own process, where the AWS libraries look for them.

Rules: the first source that has a value wins; an empty value counts as none; a value is never repeated in a
message, since it may have been pasted into the wrong variable. The aliases of later versions of the pipeline are in
:mod:`~riva_stream.settings_aliases`, the choice of the file in :mod:`~riva_stream.settings_file`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from riva_stream.config import StageRequest
from riva_stream.errors import ConfigurationError
from riva_stream.events import Warned
from riva_stream.settings_aliases import (
    ALIASES,
    SWITCHES,
    Layers,
    Resolution,
    read_mode,
    read_switch,
    resolve,
)
from riva_stream.settings_check import Origin, check
from riva_stream.settings_file import ENV_FILE, EnvFile, read_env_file
from riva_stream.settings_profile import region_of_profile

__all__ = [
    "OTHER_VARIABLES",
    "EnvironmentSettings",
    "Loaded",
    "environment_of",
    "keys_outrank_profile",
    "load",
    "reading",
    "usual",
    "variables_of",
]

_TRACE = "TRACE"
OTHER_VARIABLES = (ENV_FILE, _TRACE)
"""Variables of the command line itself, which no field of a request has."""

_USUAL_ENVIRONMENTS = ("prod", "staging", "dev")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def _from(*variables: str) -> Any:
    return Field(default=None, validation_alias=AliasChoices(*variables))


class EnvironmentSettings(BaseSettings):
    """The settings that have a variable. Where there are several, the first one that is set is taken."""

    model_config = SettingsConfigDict(
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    # Not by str_strip_whitespace, which takes no bytes that are not UTF-8: the request's own check tells of these.
    @field_validator("*")
    @classmethod
    def _stripped(cls, value: str | None) -> str | None:
        return value.strip() if value else value

    source: str | None = _from("RIVA_ASR_MODEL_S3_URI")
    bucket: str | None = _from("NVIDIA_DRIVERS_S3_BUCKET")
    env: str | None = _from("ENV")
    model_name: str | None = _from("RIVA_ASR_MODEL_NAME")
    model_version: str | None = _from("MODEL_VERSION")
    language: str | None = _from("RIVA_ASR_LANG_CODE")
    architecture: str | None = _from("RIVA_ASR_MODEL_ARCHITECTURE")
    expect_sha256: str | None = _from("RIVA_ASR_MODEL_SHA256")
    region: str | None = _from("AWS_REGION", "AWS_DEFAULT_REGION")
    # The narrower name first, as the AWS SDKs have it.
    endpoint_url: str | None = _from("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    profile: str | None = _from("AWS_PROFILE")
    addressing: str | None = _from("RIVA_STREAM_ADDRESSING")
    ca_bundle: str | None = _from("AWS_CA_BUNDLE")
    source_region: str | None = _from("RIVA_SOURCE_REGION")
    source_endpoint_url: str | None = _from("RIVA_SOURCE_ENDPOINT_URL")
    source_profile: str | None = _from("RIVA_SOURCE_PROFILE")
    server_path: str | None = _from("RIVA_SERVER_PATH")
    retention_days: str | None = _from("ARTIFACT_RETENTION_DAYS")
    state_dir: str | None = _from("RIVA_STATE_DIR")
    # Switches: read by read_switch(), which knows more words for yes and no than pydantic does.
    reference_only: str | None = _from("REFERENCE_ONLY")
    bintarball_reference: str | None = _from("BINTARBALL_REFERENCE")
    force: str | None = _from("FORCE_DOWNLOAD")
    dry_run: str | None = _from("DRY_RUN")
    no_checksum: str | None = _from("CHECKSUM_VALIDATION")


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
    """TRACE asks for what ``--debug`` shows."""


def variables_of(name: str) -> tuple[str, ...]:
    """Environment variables of a setting in the order they are asked; empty for one that only has a flag."""
    return (*_own_variables(name), *ALIASES.get(name, ()))


def load(flags: Mapping[str, object], *, env_file: Path | EnvFile | None = None) -> Loaded:
    """Make a request from ``flags`` over the process environment over ``env_file``.

    Args:
        flags: fields of :class:`~riva_stream.config.StageRequest`, and ``mode``, which outranks all that variables
            say of the mode; None and empty strings count as not given.
        env_file: a ``.env`` that must exist, or one that was read already; None: see
            :mod:`~riva_stream.settings_file`.

    Raises:
        ConfigurationError: the file cannot be read, or settings are missing or malformed
            (:class:`~riva_stream.settings_check.SettingsError` then lists all of them).
    """
    file = env_file if isinstance(env_file, EnvFile) else read_env_file(env_file)
    given = {name: value for name, value in flags.items() if value is not None and value not in ("", ())}
    mode = given.pop("mode", None)
    layers = Layers((("the environment", os.environ), (str(file.path), file.values)))
    known = {name: value for name, value in given.items() if name in EnvironmentSettings.model_fields}
    texts: dict[str, Any] = {name: str(value) for name, value in known.items()}
    settings = reading(file.values)(**texts)
    found = {name: value for name, value in settings.model_dump().items() if value and name not in SWITCHES}
    so_far = Resolution(
        values={**given, **found},
        origins={name: _origin(name, given, layers) for name in found},
        wrong={},
        warnings=list(file.warnings),
    )
    _regions(so_far, file)
    _profile(so_far, given, file)
    _switches(so_far, given, mode, layers)
    trace = layers.find(_TRACE)
    traced = trace is not None and read_switch(so_far, "debug", trace)
    resolve(so_far, layers)
    usual_names = {name: usual(name) for name in EnvironmentSettings.model_fields}
    try:
        request = check(so_far.values, so_far.origins, usual_names, so_far.wrong)
    except ConfigurationError as error:
        error.ignored = tuple(warning.message for warning in so_far.warnings)
        raise
    if request.env not in _USUAL_ENVIRONMENTS:
        so_far.warnings.append(
            Warned(
                code="unusual-env",
                message=f"ENV is {request.env!r}, which is none of {', '.join(_USUAL_ENVIRONMENTS)}",
            )
        )
    return Loaded(request, tuple(so_far.warnings), file.path, environment_of(file.values), traced)


def _regions(so_far: Resolution, file: EnvFile) -> None:
    """Those that only the profiles have. Keys that outrank AWS_PROFILE leave its region, as in the AWS libraries."""
    values = so_far.values
    if "source_profile" in values and "source_region" not in values:
        _region(so_far, "source_region", values["source_profile"], file)
    if "region" not in values:
        _region(so_far, "region", values.get("profile"), file)


def _region(so_far: Resolution, name: str, profile: str | None, file: EnvFile) -> None:
    found = region_of_profile(profile, {**file.values, **os.environ})
    if found is not None:
        so_far.values[name], path = found
        so_far.origins[name] = Origin(variable=usual(name), place=f"the AWS configuration, {path}")


def _profile(so_far: Resolution, given: Mapping[str, object], file: EnvFile) -> None:
    if not keys_outrank_profile(given, file.values):
        return
    # The AWS libraries let keys in the environment win over AWS_PROFILE, but not over a profile that they are handed,
    # as they will be handed ours.
    del so_far.values["profile"]
    so_far.warnings.append(
        Warned(
            code="profile-outranked",
            message="AWS_PROFILE is not used: AWS_ACCESS_KEY_ID is set too and wins; pass --profile to use it",
        )
    )


def _switches(so_far: Resolution, given: Mapping[str, object], mode: object, layers: Layers) -> None:
    modes = {name: usual(name) for name in ("reference_only", "bintarball_reference")}
    if mode is None and not modes.keys() & given.keys():
        mode = read_mode(so_far, layers, modes)
    if mode is not None:
        so_far.values.update({name: name == mode for name in modes})
    for name in SWITCHES:
        if name not in modes and name not in given and (value := layers.find(usual(name))):
            so_far.values[name] = read_switch(so_far, name, value)


def _own_variables(name: str) -> tuple[str, ...]:
    info = EnvironmentSettings.model_fields.get(name)
    if info is None or not isinstance(info.validation_alias, AliasChoices):
        return ()
    return tuple(str(choice) for choice in info.validation_alias.choices)


def usual(name: str) -> str:
    """AWS_REGION, AWS_ENDPOINT_URL: of two, the shorter is the usual one."""
    return min(_own_variables(name), key=len)


def reading(in_file: Mapping[str, str]) -> type[EnvironmentSettings]:
    """The settings with ``in_file`` as their last source.

    pydantic-settings would read the file itself, a second time; but ``--env-file <(decrypt .env.gpg)`` is a pipe,
    which can be read just once.
    """

    class Settings(EnvironmentSettings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            from_file = EnvSettingsSource(settings_cls)
            from_file.env_vars = dict(in_file)
            return init_settings, env_settings, from_file

    return Settings


def _origin(name: str, given: Mapping[str, object], layers: Layers) -> Origin:
    if name in given:
        return Origin(variable=usual(name), place="the flag")
    value = layers.find(*_own_variables(name))
    return value.origin if value else Origin(variable=usual(name), place="")


def keys_outrank_profile(given: Mapping[str, object], in_file: Mapping[str, str]) -> bool:
    """Whether keys are set too, which the AWS libraries let win over AWS_PROFILE; a profile that was given wins."""
    if "profile" in given:
        return False
    if os.environ.get("AWS_PROFILE"):
        return bool(os.environ.get(_KEYS[0]))
    return bool(in_file.get("AWS_PROFILE") and (os.environ.get(_KEYS[0]) or in_file.get(_KEYS[0])))


def environment_of(in_file: Mapping[str, str]) -> dict[str, str]:
    """AWS variables of a file (credentials among them) that the process environment lacks."""
    ours = {variable for name in EnvironmentSettings.model_fields for variable in variables_of(name)}
    # Key, secret and token belong together: one half from each place would be refused as a wrong signature.
    skipped = set(_KEYS) if any(os.environ.get(name) for name in _KEYS[:2]) else set()
    return {
        name: value
        for name, value in in_file.items()
        if name.startswith("AWS_") and name not in ours | skipped and not os.environ.get(name)
    }
