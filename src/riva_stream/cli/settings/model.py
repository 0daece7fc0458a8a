"""Every setting of the command line: its variables, their aliases, and an example of a valid value.

:class:`Settings` is read from the environment and the file through :mod:`~riva_stream.cli.settings.places` alone.
Nothing is rejected here: :mod:`~riva_stream.cli.settings.problems` reports a malformed value with all others. A value
is never repeated in a message, since it may have been pasted into the wrong variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import AliasChoices, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from riva_stream.cli.settings.places import Places

__all__ = ["SWITCH", "TRACE", "Settings", "read_settings"]

TRACE = "TRACE"
SWITCH = "true"
"""The example of a switch, which has no value on the command line: only its variable can be wrong."""


def _setting(*variables: str, aliases: Iterable[str] = (), example: str = SWITCH) -> Any:
    """One setting.

    Args:
        variables: its own names, highest precedence first; none for a setting that only has a flag.
        aliases: names that later versions of the pipeline use for it, read where none of its own is set.
        example: a valid value, as on the command line.
    """
    own = AliasChoices(*variables) if variables else None
    return Field(
        default=None, validation_alias=own, examples=[example], json_schema_extra={"aliases": [*aliases]}
    )


class Settings(BaseSettings):
    """All settings, as they were found: nothing is validated yet. Fields are those of the request."""

    model_config = SettingsConfigDict(case_sensitive=True, extra="ignore", populate_by_name=True)

    source: Any = _setting(
        "RIVA_ASR_MODEL_S3_URI",
        aliases=("RIVA_ASR_MODEL_SOURCE_URI", "RIVA_MODEL_PATH"),
        example="s3://my-models/parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz",
    )
    bucket: Any = _setting(
        "NVIDIA_DRIVERS_S3_BUCKET", aliases=("RIVA_MODELS_S3_BUCKET",), example="my-staging-bucket"
    )
    env: Any = _setting("ENV", aliases=("ENV_VERSION",), example="prod")
    model_name: Any = _setting(
        "RIVA_ASR_MODEL_NAME", aliases=("RIVA_MODEL", "RIVA_MODEL_SELECTED"), example="parakeet-rnnt-en-us"
    )
    model_version: Any = _setting(
        "MODEL_VERSION", aliases=("RIVA_MODEL_SELECTED", "RIVA_MODEL"), example="v2025.09"
    )
    language: Any = _setting("RIVA_ASR_LANG_CODE", aliases=("RIVA_LANGUAGE_CODE",), example="en-US")
    architecture: Any = _setting("RIVA_ASR_MODEL_ARCHITECTURE", example="rnnt")
    description: Any = _setting(example="Parakeet RNNT 1.1B")

    reference_only: Any = _setting("REFERENCE_ONLY")
    bintarball_reference: Any = _setting("BINTARBALL_REFERENCE")
    server_path: Any = _setting(
        "RIVA_SERVER_PATH", example="s3://my-models/bintarball/riva-containers/riva-speech-2.15.0.tar.gz"
    )
    include: Any = _setting(example="'*.riva'")
    expect_sha256: Any = _setting(
        "RIVA_ASR_MODEL_SHA256", example="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    )
    no_checksum: Any = _setting("CHECKSUM_VALIDATION")
    """The variable means the opposite: CHECKSUM_VALIDATION=false is --no-checksum."""
    allow_missing_end: Any = _setting()
    max_members: Any = _setting(example="100000")
    max_models: Any = _setting(example="1000")
    max_header_bytes: Any = _setting(example="1MiB")
    max_expanded: Any = _setting(example="5TiB")
    max_ratio: Any = _setting(example="100")
    max_streams: Any = _setting(example="4000000")
    max_zstd_window: Any = _setting(example="128MiB")
    force: Any = _setting("FORCE_DOWNLOAD")
    dry_run: Any = _setting("DRY_RUN")
    replicate_to: Any = _setting(example="s3://my-staging-bucket-eu/prod/parakeet-rnnt-en-us/v2025.09/")
    to: Any = _setting(example="s3://my-staging-bucket/prod/parakeet-rnnt-en-us/v2025.09/")
    deep: Any = _setting()
    retention_days: Any = _setting("ARTIFACT_RETENTION_DAYS", example="90")
    tag: Any = _setting()

    region: Any = _setting("AWS_REGION", "AWS_DEFAULT_REGION", example="us-east-2")
    # The more specific name first, as in the AWS SDKs.
    endpoint_url: Any = _setting(
        "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", example="https://s3.us-east-2.amazonaws.com"
    )
    profile: Any = _setting("AWS_PROFILE", example="staging")
    source_region: Any = _setting("RIVA_SOURCE_REGION", example="us-east-1")
    source_endpoint_url: Any = _setting(
        "RIVA_SOURCE_ENDPOINT_URL", example="https://s3.us-east-1.amazonaws.com"
    )
    source_profile: Any = _setting("RIVA_SOURCE_PROFILE", example="models")
    ca_bundle: Any = _setting("AWS_CA_BUNDLE", example="/etc/ssl/certs/ca-certificates.crt")
    addressing: Any = _setting("RIVA_STREAM_ADDRESSING", example="virtual")
    request_payer: Any = _setting(example="requester")
    no_sign_request: Any = _setting()

    acl: Any = _setting(example="bucket-owner-full-control")
    sse: Any = _setting(example="aws:kms")
    kms_key_id: Any = _setting(example="alias/my-key")
    storage_class: Any = _setting(example="INTELLIGENT_TIERING")
    expected_bucket_owner: Any = _setting(example="111122223333")

    part_size: Any = _setting(example="16MiB")
    checkpoint: Any = _setting(example="256MiB")
    resume: Any = _setting(example="auto")
    source_copy: Any = _setting(example="auto")
    connections: Any = _setting(example="8")
    memory: Any = _setting(example="256MiB")
    timeout: Any = _setting(example="5m")
    deadline: Any = _setting(example="2h")
    retries: Any = _setting(example="8")
    upload_check: Any = _setting(example="auto")
    lease: Any = _setting(example="30s")
    wait: Any = _setting()
    state_dir: Any = _setting("RIVA_STATE_DIR", example="./state")
    run_id: Any = _setting(example="130-20250923-101500-0a1b2c3d")

    @classmethod
    def variables(cls, name: str) -> tuple[str, ...]:
        """The setting's own variables, highest precedence first; none for one that only has a flag."""
        info = cls.model_fields.get(name)
        own = info.validation_alias if info is not None else None
        return tuple(map(str, own.choices)) if isinstance(own, AliasChoices) else ()

    @classmethod
    def aliases(cls, name: str) -> tuple[str, ...]:
        """Its other names, in the order in which they are read."""
        more = cls.model_fields[name].json_schema_extra
        assert isinstance(more, dict)  # noqa: S101 - _setting() gives each one
        return tuple(map(str, more["aliases"]))  # type: ignore[arg-type]

    @classmethod
    def usual(cls, name: str) -> str:
        """The usual variable, such as AWS_REGION or AWS_ENDPOINT_URL: the shortest. "" for a setting that has none."""
        return min(cls.variables(name), key=len, default="")

    @classmethod
    def example(cls, name: str) -> str:
        """A valid value, as on the command line; that of a switch is :data:`SWITCH`."""
        info = cls.model_fields.get(name)
        return str(info.examples[0]) if info is not None and info.examples else SWITCH


class _Variables(PydanticBaseSettingsSource):
    """The variables of all places. An alias is read only where no place has one of the setting's own names."""

    def __init__(self, settings_cls: type[BaseSettings], places: Places) -> None:
        super().__init__(settings_cls)
        self._places = places

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        own = Settings.variables(field_name)
        found = self._places.find(*own) or self._places.find(*Settings.aliases(field_name))
        return found, own[0] if own else field_name, False

    def __call__(self) -> dict[str, Any]:
        found = (self.get_field_value(field, name) for name, field in Settings.model_fields.items())
        return {key: value for value, key, _ in found if value is not None}


def read_settings(flags: Mapping[str, Any], places: Places) -> Settings:
    """Read flags and variables; a flag wins. A :class:`~riva_stream.cli.settings.places.Value` has its origin."""

    class Read(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, _Variables(settings_cls, places)

    return Read(**flags)
