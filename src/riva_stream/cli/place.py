"""What commands that look at a bucket share: the place that is meant, and the store that it lies in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from riva_stream.cli.execute import Session, set_up_environment
from riva_stream.cli.settings.env_file import EnvFile
from riva_stream.cli.settings.load import Endpoint, load_endpoint
from riva_stream.deployment import DOCUMENTS
from riva_stream.errors import ConfigurationError
from riva_stream.operations.uris import split

if TYPE_CHECKING:
    from riva_stream.s3 import StoreSettings

__all__ = ["reach_of", "staging_prefix", "store_of"]


def reach_of(
    session: Session, fallback: Mapping[str, str | None] | None = None, *, env_file: EnvFile | None = None
) -> Endpoint:
    """The endpoint and the credentials, which this process has from here on.

    Args:
        session: with the flags of ``options.add_reach``.
        fallback: what is taken where neither a flag nor a variable says anything.
        env_file: the file of settings, where it was read already: a pipe can be read just once.
    """
    args = session.args
    reach = load_endpoint(vars(args), env_file=env_file or args.env_file, fallback=fallback or {})
    for warning in reach.warnings:
        session.warn(warning)
    set_up_environment(reach.environment, reach.profile, profile_flag=bool(args.profile))
    return reach


def store_of(reach: Endpoint) -> StoreSettings:
    """The store that a reach names."""
    from riva_stream.s3 import StoreSettings, WriteOptions  # noqa: PLC0415 - the AWS libraries come with it

    return StoreSettings(
        region=reach.region,
        endpoint_url=reach.endpoint_url,
        profile=reach.profile,
        ca_bundle=reach.ca_bundle,
        addressing=reach.addressing,
        options=WriteOptions(request_payer=reach.request_payer),
    )


def staging_prefix(text: str | None, reach: Endpoint) -> tuple[str, str]:
    """Bucket and prefix, with its closing slash, of one staging; by default the one that the settings of stage name.

    Raises:
        ConfigurationError: it names no staging.
    """
    example = "s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/"
    if text is None:
        if reach.bucket and reach.prefix:
            return reach.bucket, reach.prefix
        raise ConfigurationError(
            "no staging is named, and the settings of stage do not name one either",
            hint=f"for example: {example}; or set NVIDIA_DRIVERS_S3_BUCKET, ENV, RIVA_ASR_MODEL_NAME and MODEL_VERSION",
        )
    bucket, key = split(text, example)
    segments = [segment for segment in key.split("/") if segment]
    if segments and segments[-1] in DOCUMENTS:  # somebody pasted the key of one of its files
        segments.pop()
    if not segments:
        raise ConfigurationError(
            f"{text!r} names a bucket, not a staging in it",
            hint=f"for example: {example}; what there is: riva-stream ls s3://{bucket}",
        )
    return bucket, "".join(f"{segment}/" for segment in segments)
