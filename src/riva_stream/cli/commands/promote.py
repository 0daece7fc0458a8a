"""``promote``: copy a committed staging to other places."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help
from riva_stream.cli.output import hanging, section, text_of
from riva_stream.cli.running import session_command
from riva_stream.layout import DEPLOYMENTS
from riva_stream.sizes import human_size

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.config import Wrong
    from riva_stream.report import PlaceReport, PromoteReport, StageReport

HELP = Help(
    summary="copy a committed staging to another place, inside the store",
    usage="[s3://BUCKET/ENV/MODEL/VERSION/] [flags]",
    description="""\
Copy a committed staging to another place, in this bucket or another: the store copies its objects, each is proven to
match the staging's manifest, and new documents and a marker commit them, as with stage. Where the store cannot copy
(another endpoint, other credentials), they are read, hashed and sent. Running the same command again is always safe.

Where to: --env, --bucket, --model-name and --model-version each replace that part of the staging's own place; --to names
a place as a whole, and may be repeated. Several places are promoted to at once: one that fails holds up no other.
""",
    examples="""\
  PROG promote s3://deployments/dev/parakeet-rnnt-en-us/v2025.09/ --env prod
      nothing is downloaded
  PROG promote --env prod
      what the settings of stage name, from the environment and .env
  PROG promote s3://deployments/dev/parakeet-rnnt-en-us/v2025.09/ \\
      --to s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --to s3://deployments-eu/prod/parakeet-rnnt-en-us/v2025.09/
  PROG promote s3://deployments/dev/parakeet-rnnt-en-us/v2025.09/ --env prod --dry-run
      what would be written, how it would be proven, and whether it may be
""",
)
_LEVELS = ("bucket", "env", "model_name", "model_version")


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_staging(parser)
    options.add_promote(parser)


def _promote(session: Session) -> PromoteReport:
    from riva_stream.cli.settings.places import Origin
    from riva_stream.cli.settings.problems import check, malformed
    from riva_stream.config import PromoteRequest, place_of
    from riva_stream.errors import ConfigurationError

    args = session.args
    record, file = session.begin_record()
    endpoint = session.endpoint(env_file=file, switches=("dry_run",))
    bucket, prefix = endpoint.staging(args.prefix)
    source = f"s3://{bucket}/{prefix}"
    if told := malformed(PromoteRequest, {"source": source}).get("source"):
        raise ConfigurationError(
            f"{args.prefix or source!r} {told.text}",
            hint="name a staging with its environment, model and version: s3://deployments/dev/parakeet-rnnt-en-us/v2025.09/"
            if args.prefix
            else "correct NVIDIA_DRIVERS_S3_BUCKET, ENV, RIVA_ASR_MODEL_NAME and MODEL_VERSION, or name the staging itself",
        )
    values = options.promote_flags(args, record.free_id, file) | {
        name: value
        for name in PromoteRequest.model_fields
        if (value := getattr(endpoint, name, None)) is not None
    }
    own, wrong = _place(args, bucket, prefix)
    places = [*own, *(args.to or ())]
    if not places:
        raise ConfigurationError(
            "no target given",
            hint="pass --env, --bucket, --model-name or --model-version, or --to with a whole place; for example: --env prod",
        )
    if (
        own == [place_of(source)]
        and not wrong
        and endpoint.source_endpoint_url in {None, endpoint.endpoint_url}
    ):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in _LEVELS if getattr(args, name))
        raise ConfigurationError(
            f"{flags} would leave the staging where it is, at {own[0]}",
            hint="name another place with --env, --bucket, --model-name or --model-version, or a whole one with --to",
        )
    values |= {"source": source, "to": tuple(dict.fromkeys(places))}
    if args.to and (told := malformed(PromoteRequest, {"to": tuple(args.to)}).get("to")):
        wrong["to"] = told  # numbered as given: without the staging's own place
    # ENV and the like do not apply to this place, nor ARTIFACT_RETENTION_DAYS to a staging that has its own.
    origins = {name: Origin("", "") for name in (*wrong, "retention_days")}
    record.request = request = check(values, origins, wrong, kind=PromoteRequest)

    from riva_stream.pipeline import promote  # the AWS libraries are loaded only for a valid request

    return session.run(promote, request, observer=session.observe)


def _place(args: Namespace, bucket: str, prefix: str) -> tuple[list[str], dict[str, Wrong]]:
    """The staging's own place with the parts that flags replace, if any; and what is wrong with these.

    A wrong part is replaced by an example: it is reported once, under its flag, or with the staging that it belongs to.
    """
    from riva_stream.cli.settings.model import Settings
    from riva_stream.cli.settings.problems import malformed
    from riva_stream.config import Levels

    given = {name: value for name in _LEVELS if (value := getattr(args, name))}
    if not given:
        return [], {}
    levels = prefix.removeprefix(DEPLOYMENTS).rstrip("/").split("/")
    examples = {name: Settings.example(name) for name in _LEVELS}
    whole = examples | dict(zip(_LEVELS, (bucket, *levels), strict=False)) | given
    wrong = malformed(Levels, whole)
    right = Levels.model_validate(whole | {name: examples[name] for name in wrong})
    return [right.place], {name: wrong[name] for name in given if name in wrong}


_OUTCOMES = {
    "staged": "promoted",
    "upgraded": "promoted, in place of a staging by reference",
    "already_staged": "there already, nothing had to be moved",
    "deployment_added": "there already; deployment.json was added",
    "planned": "dry run, nothing was written",
}


def summary_text(report: PromoteReport, _: object = None) -> str:
    """The result at each place."""
    places = [line for place in report.places for line in section(place.destination, _place_lines(place))]
    return text_of([f"From {report.source}", *places, "", f"Took {report.seconds:.1f} s"])


def _place_lines(place: PlaceReport) -> list[str]:
    if place.report is not None:
        return _done(place.report)
    assert place.error is not None  # noqa: S101 - one of the two is there
    lines = hanging("FAILED: ", place.error.message)
    lines += [f"next: {line}" for line in place.error.hint.split("\n") if line]
    return [*lines, f"exit code {place.exit_code}"]


def _done(report: StageReport) -> list[str]:
    lines = [_OUTCOMES[report.outcome]]
    if report.plan is not None:
        how = _moved(report.plan.source_copy, "to be proven by")
        lines += [f"would {options.WOULD[report.plan.would]}; {human_size(report.plan.source_size)} {how}"]
        lines += [f"  {item.key}" for item in report.plan.objects]
    elif report.artifact is not None and report.outcome in {"staged", "upgraded"} and report.mode == "full":
        validation = report.artifact.validation
        how = _moved(validation.source_copy, "proven by")
        reason = f" ({validation.source_copy_reason})" if validation.source_copy_reason else ""
        lines += [f"{how}{reason}"]
    by = sorted({way for check in report.objects for way in check.by})
    if by:
        lines += [f"{len(report.objects)} objects checked again, by {', '.join(by)}"]
    lines += [f"warning: {warning.message}" for warning in report.warnings]
    return [*lines, f"run {report.run_id}"]


def _moved(source_copy: str, proven: str) -> str:
    """How the objects came, or would come, to the place: possibly in more than one way."""
    ways = source_copy.split("+")
    proofs = [way for way in ways if way != "sent"]
    sent = ["read, hashed and sent"] if "sent" in ways else []
    copied = [f"copied by the store, {proven} {' and '.join(proofs)}"] if proofs else []
    return "; the rest ".join(copied + sent)


run = session_command(_promote, summary_text, hands_over="success")
