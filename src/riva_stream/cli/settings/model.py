"""Every setting of the command line: its variables, their aliases, and what a right value looks like.

:data:`SETTINGS` only says so: :mod:`~riva_stream.cli.settings.load` looks them up, through
:mod:`~riva_stream.cli.settings.places` alone, and a value that is malformed is told with all others, by
:mod:`~riva_stream.cli.settings.problems`. A value is never repeated in a message, since it may have been pasted into the
wrong variable.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SETTINGS", "SWITCH", "TRACE", "Setting"]

TRACE = "TRACE"
SWITCH = "true"
"""The example of a switch, which has no value on the command line: what can be wrong is what its variable says."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting."""

    variables: tuple[str, ...] = ()
    """Its own, the stronger one first; none for one that only has a flag."""
    aliases: tuple[str, ...] = ()
    """Names under which later versions of the pipeline keep it, asked in this order where none of its own is set."""
    example: str = SWITCH
    """What a right value looks like on the command line."""

    @property
    def usual(self) -> str:
        """AWS_REGION, AWS_ENDPOINT_URL: of two variables, the shorter is the usual one. "" for a setting that has none."""
        return min(self.variables, key=len, default="")


SETTINGS = {
    "source": Setting(
        ("RIVA_ASR_MODEL_S3_URI",),
        aliases=("RIVA_ASR_MODEL_SOURCE_URI", "RIVA_MODEL_PATH"),
        example="s3://my-models/parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz",
    ),
    "bucket": Setting(
        ("NVIDIA_DRIVERS_S3_BUCKET",), aliases=("RIVA_MODELS_S3_BUCKET",), example="my-staging-bucket"
    ),
    "env": Setting(("ENV",), aliases=("ENV_VERSION",), example="prod"),
    "model_name": Setting(
        ("RIVA_ASR_MODEL_NAME",), aliases=("RIVA_MODEL", "RIVA_MODEL_SELECTED"), example="parakeet-rnnt-en-us"
    ),
    "model_version": Setting(
        ("MODEL_VERSION",), aliases=("RIVA_MODEL_SELECTED", "RIVA_MODEL"), example="v2025.09"
    ),
    "language": Setting(("RIVA_ASR_LANG_CODE",), aliases=("RIVA_LANGUAGE_CODE",), example="en-US"),
    "architecture": Setting(("RIVA_ASR_MODEL_ARCHITECTURE",), example="rnnt"),
    "description": Setting(example="Parakeet RNNT 1.1B"),
    "reference_only": Setting(("REFERENCE_ONLY",)),
    "bintarball_reference": Setting(("BINTARBALL_REFERENCE",)),
    "server_path": Setting(
        ("RIVA_SERVER_PATH",), example="s3://my-models/bintarball/riva-containers/riva-speech-2.15.0.tar.gz"
    ),
    "include": Setting(example="'*.riva'"),
    "expect_sha256": Setting(
        ("RIVA_ASR_MODEL_SHA256",), example="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    ),
    # The variable says the opposite: CHECKSUM_VALIDATION=false is --no-checksum.
    "no_checksum": Setting(("CHECKSUM_VALIDATION",)),
    "allow_missing_end": Setting(),
    "max_members": Setting(example="100000"),
    "max_models": Setting(example="1000"),
    "max_header_bytes": Setting(example="1MiB"),
    "max_expanded": Setting(example="5TiB"),
    "max_ratio": Setting(example="100"),
    "max_streams": Setting(example="4000000"),
    "max_zstd_window": Setting(example="128MiB"),
    "force": Setting(("FORCE_DOWNLOAD",)),
    "dry_run": Setting(("DRY_RUN",)),
    "replicate_to": Setting(example="s3://my-staging-bucket-eu/prod/parakeet-rnnt-en-us/v2025.09/"),
    "to": Setting(example="s3://my-staging-bucket/prod/parakeet-rnnt-en-us/v2025.09/"),
    "deep": Setting(),
    "retention_days": Setting(("ARTIFACT_RETENTION_DAYS",), example="90"),
    "tag": Setting(),
    "region": Setting(("AWS_REGION", "AWS_DEFAULT_REGION"), example="us-east-2"),
    # The narrower name first, as the AWS SDKs have it.
    "endpoint_url": Setting(
        ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), example="https://s3.us-east-2.amazonaws.com"
    ),
    "profile": Setting(("AWS_PROFILE",), example="staging"),
    "source_region": Setting(("RIVA_SOURCE_REGION",), example="us-east-1"),
    "source_endpoint_url": Setting(
        ("RIVA_SOURCE_ENDPOINT_URL",), example="https://s3.us-east-1.amazonaws.com"
    ),
    "source_profile": Setting(("RIVA_SOURCE_PROFILE",), example="models"),
    "ca_bundle": Setting(("AWS_CA_BUNDLE",), example="/etc/ssl/certs/ca-certificates.crt"),
    "addressing": Setting(("RIVA_STREAM_ADDRESSING",), example="virtual"),
    "request_payer": Setting(example="requester"),
    "no_sign_request": Setting(),
    "acl": Setting(example="bucket-owner-full-control"),
    "sse": Setting(example="aws:kms"),
    "kms_key_id": Setting(example="alias/my-key"),
    "storage_class": Setting(example="INTELLIGENT_TIERING"),
    "expected_bucket_owner": Setting(example="111122223333"),
    "part_size": Setting(example="16MiB"),
    "checkpoint": Setting(example="256MiB"),
    "resume": Setting(example="auto"),
    "source_copy": Setting(example="auto"),
    "connections": Setting(example="8"),
    "memory": Setting(example="256MiB"),
    "timeout": Setting(example="5m"),
    "deadline": Setting(example="2h"),
    "retries": Setting(example="8"),
    "upload_check": Setting(example="auto"),
    "lease": Setting(example="30s"),
    "wait": Setting(),
    "state_dir": Setting(("RIVA_STATE_DIR",), example="./state"),
    "run_id": Setting(example="130-20250923-101500-0a1b2c3d"),
}
"""By the fields of the requests."""
