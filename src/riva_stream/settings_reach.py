"""The settings of commands that stage nothing: how to get at a store, and which staging is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from riva_stream.config import Addressing, is_text
from riva_stream.errors import ConfigurationError
from riva_stream.events import Warned
from riva_stream.layout import prefix_of
from riva_stream.settings import EnvironmentSettings, environment_of, keys_outrank_profile, reading, usual
from riva_stream.settings_aliases import Layers, Resolution, read_mode, resolve
from riva_stream.settings_file import EnvFile, read_env_file
from riva_stream.settings_profile import region_of_profile

__all__ = ["Reach", "load_reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """How to get at a store, for commands that stage nothing."""

    region: str | None
    endpoint_url: str | None
    profile: str | None
    ca_bundle: Path | None
    environment: Mapping[str, str] = field(repr=False)
    bucket: str | None = None
    """That of stagings."""
    prefix: str | None = None
    """Of the staging that the settings name, with its closing slash; None when they name none."""
    source_region: str | None = None
    source_endpoint_url: str | None = None
    source_profile: str | None = None
    addressing: Addressing = "auto"
    request_payer: str | None = None
    no_sign_request: bool = False
    warnings: tuple[Warned, ...] = ()


def load_reach(
    flags: Mapping[str, object],
    *,
    env_file: Path | EnvFile | None = None,
    fallback: Mapping[str, str | None] | None = None,
) -> Reach:
    """The endpoint and the credentials, from the same places and in the same order as :func:`~riva_stream.settings.load`.

    Args:
        flags: as there; what is not asked for here is passed over.
        env_file: as there.
        fallback: values of fields for which no source has one.

    Raises:
        ConfigurationError: the file cannot be read, or neither a region nor an endpoint is set.
    """
    file = env_file if isinstance(env_file, EnvFile) else read_env_file(env_file)
    in_file = file.values
    here = ("region", "endpoint_url", "profile", "ca_bundle", "addressing")
    names = (*here, "source_region", "source_endpoint_url", "source_profile")
    given = {name: flags[name] for name in names if flags.get(name)}
    texts: dict[str, Any] = {name: str(value) for name, value in given.items()}
    settings = reading(in_file)(**texts)
    missing = {k: v for k, v in (fallback or {}).items() if v and not getattr(settings, k)}
    settings = settings.model_copy(update=missing)
    layers = Layers((("the environment", os.environ), (str(file.path), in_file)))
    wrong = [name for name in EnvironmentSettings.model_fields if not is_text(getattr(settings, name))]
    if wrong:
        raise ConfigurationError(
            f"not UTF-8: {', '.join(wrong)}", hint="look at the flags, and at the variables of these settings"
        )
    bucket, prefix = _staging_of(settings, layers)
    profiles = {**in_file, **os.environ}
    regions = {"region": settings.profile, "source_region": settings.source_profile}
    for name, profile in regions.items():
        wanted = not getattr(settings, name) and (name == "region" or profile)
        if wanted and (found := region_of_profile(profile, profiles)) is not None:
            settings = settings.model_copy(update={name: found[0]})
    if not settings.region and not settings.endpoint_url:
        error = ConfigurationError(
            "no region is set", hint="pass --region, or set AWS_REGION; for example: --region us-east-2"
        )
        error.ignored = tuple(warning.message for warning in file.warnings)
        raise error
    return Reach(
        region=settings.region,
        endpoint_url=settings.endpoint_url,
        profile=None if keys_outrank_profile(given, in_file) else settings.profile,
        ca_bundle=Path(settings.ca_bundle) if settings.ca_bundle else None,
        environment=environment_of(in_file),
        bucket=bucket,
        prefix=prefix,
        source_region=settings.source_region,
        source_endpoint_url=settings.source_endpoint_url,
        source_profile=settings.source_profile,
        addressing=_addressing(settings.addressing),
        request_payer=str(flags["request_payer"]) if flags.get("request_payer") else None,
        no_sign_request=bool(flags.get("no_sign_request")),
        warnings=file.warnings,
    )


def _addressing(value: str | None) -> Addressing:
    if value is None:
        return "auto"
    for known in get_args(Addressing):
        if value == known:
            return cast(Addressing, known)
    raise ConfigurationError(
        "the addressing is none of auto, path and virtual",
        hint="pass --addressing, or set RIVA_STREAM_ADDRESSING; for example: --addressing virtual",
    )


def _staging_of(settings: EnvironmentSettings, layers: Layers) -> tuple[str | None, str | None]:
    """Bucket and prefix of the staging that :func:`~riva_stream.settings.load` would make a request for, as far as they are named."""
    levels = ("env", "model_name", "model_version")
    named = {name: value for name in ("bucket", *levels) if (value := getattr(settings, name))}
    so_far = Resolution(values=named, origins={}, wrong={}, warnings=[])
    modes = {name: usual(name) for name in ("reference_only", "bintarball_reference")}
    mode = read_mode(so_far, layers, modes)
    resolve(so_far, layers)
    values = [str(so_far.values[name]) for name in levels if name in so_far.values]
    unclear = so_far.wrong.keys() & {*levels, *modes}
    prefix = None if unclear or len(values) != len(levels) else prefix_of(mode, *values)
    return so_far.values.get("bucket"), prefix
