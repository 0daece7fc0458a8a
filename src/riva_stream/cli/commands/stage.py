"""``stage``: the main job, and its report for people."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help
from riva_stream.cli.output import hanging, section, text_of
from riva_stream.cli.running import session_command
from riva_stream.layout import ARTIFACT_JSON, MARKER
from riva_stream.sizes import human_rate, human_size
from riva_stream.uris import key_of

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.deployment import DeploymentDocument
    from riva_stream.manifest import Artifact
    from riva_stream.report import PlaceReport, Plan, StageReport

HELP = Help(
    summary="stage a model archive: verify, unpack, upload, commit",
    usage="[flags]",
    description="""\
Read a .tar.gz of .riva models from S3 once, and leave a verified staging in S3: the archive, its models, their
checksums and metadata, and last of all staging_complete.txt. Nothing of it touches the local disk. Running the
same command again is always safe: it continues, or says that everything is there.

Every setting comes from its flag, else from the environment, else from .env; [NAME] is its variable.
""",
    examples="""\
  PROG stage
      everything from the environment and .env
  PROG stage --reference-only
      seconds: the archive stays where it is
  PROG stage --source s3://models/parakeet_v8.1.tar.gz --bucket deployments --env prod \\
      --model-name parakeet-rnnt-en-us --model-version v2025.09 --region us-east-2
  PROG stage --dry-run --json | jq .plan
      what would be written, and whether it may be
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_stage(parser)


_OUTCOMES = {
    "staged": "Staged",
    "already_staged": "Already staged, nothing had to be moved",
    "upgraded": "Upgraded from a staging by reference",
    "deployment_added": "Already staged; deployment.json was added",
    "planned": "Dry run, nothing was written",
}
_STAGED = {"already_staged", "deployment_added"}
"""Outcomes whose artifact is that of an earlier run."""


def _stage(session: Session) -> StageReport:
    from riva_stream.cli.settings.load import load
    from riva_stream.preflight.policy import granting

    args = session.args
    record, file = session.begin_record()
    loaded = load(options.request_flags(args, args.run_id or session.run_id, file), env_file=file)
    record.request = loaded.request
    if loaded.trace:
        session.trace()
    session.adopt_environment(loaded.environment, loaded.request.profile, loaded.warnings)
    if not loaded.request.dry_run:
        record.begin()

    from riva_stream.pipeline import stage  # the AWS libraries are loaded only for a valid request

    with granting(loaded.request):
        report = session.run(stage, loaded.request, observer=session.observe)
    return report.model_copy(update={"warnings": [*session.warnings, *report.warnings]})


def _text(report: StageReport, session: Session) -> str:
    fancy = sys.stdout is not None and "utf" in (sys.stdout.encoding or "").lower()
    return summary_text(report, debug=session.args.debug, fancy=fancy)


def summary_text(report: StageReport, *, debug: bool = False, fancy: bool = True) -> str:
    """The outcome, what is where, what was checked, how fast it was, and the next step.

    Args:
        report: the result.
        debug: include the seconds of each lane and the CPU time.
        fancy: draw the tree with box characters.
    """
    lines = [f"{_OUTCOMES[report.outcome]} ({options.MODES[report.mode]})"]
    if report.plan is not None:
        lines += _plan(report.plan)
    else:
        lines += ["", report.destination, *_tree(report, fancy=fancy)]
    if report.artifact is not None:
        when = " at staging time; objects re-checked now" if report.outcome in _STAGED else ""
        lines += section(f"Checked{when}", _checked(report, report.artifact))
    if report.deployment is not None:
        lines += section("To be deployed", _deployment(report.deployment))
    lines += section("Replicas", (line for replica in report.replicas for line in _replica(replica)))
    lines += section("Warnings", (warning.message for warning in report.warnings))
    lines += ["", _pace(report)]
    if debug and report.artifact is not None:
        lines += ["", *_lanes(report.artifact)]
    lines += ["", f"Next: {report.next_step}"] if report.next_step else []
    return text_of(lines)


def _tree(report: StageReport, *, fancy: bool) -> list[str]:
    artifact = report.artifact
    prefix = key_of(report.destination)
    sizes = {check.key.removeprefix(prefix): check.size_bytes for check in report.objects}
    digests: dict[str, str | None] = {}
    if artifact is not None:
        source = artifact.source
        staged = [(f"source/{source.filename}", source.size_bytes, source.sha256)]
        found = [(model.relative_path, model.size_bytes, model.sha256) for model in artifact.models]
        for path, size, digest in [*(staged if source.status == "staged" else ()), *found]:
            sizes.setdefault(path, size)
            digests[path] = digest
    if not sizes and artifact is not None:
        sizes = dict.fromkeys((ARTIFACT_JSON, MARKER), 0)
    branch, last = ("├── ", "└── ") if fancy else ("|-- ", "`-- ")
    width = max(map(len, sizes), default=0)
    rows = [
        f"{path:<{width}}  {human_size(size) if size else '':>11}"
        + (f"  sha256 {digest}" if (digest := digests.get(path)) else "")
        for path, size in sizes.items()
    ]
    marks = [*[branch] * (len(rows) - 1), last]
    return [f"{mark}{row}".rstrip() for mark, row in zip(marks, rows, strict=False)]


def _checked(report: StageReport, artifact: Artifact) -> list[str]:
    source, done, full = artifact.source, artifact.validation, report.mode == "full"
    version = f", version {source.version_id}" if source.version_id else ""
    members = f", {done.archive_members} members" if done.archive_members is not None else ""
    by = sorted({way for check in report.objects for way in check.by})
    how = f" by {', '.join(by)}" if by else ""
    kind, compared = done.upload_check, done.checksums_verified
    of_full = [
        (done.archive_complete, f"archive read to its end, CRCs and lengths right{members}"),
        (done.source_integrity != "none", f"source's own integrity: {done.source_integrity}"),
        (done.checksums_computed, "SHA-256 computed of every byte that was sent"),
        (compared, f"SHA-256 of the archive as expected ({done.expected_sha256})"),
        (kind not in {"none", "etag"}, f"each part checked by the store: {kind}"),
        (kind == "etag", "each part compared with the MD5 the store returned"),
        (done.source_copy != "sent", f"source copied by the store, and proven by {done.source_copy}"),
    ]
    was = [
        (done.source_pinned, f"source pinned to ETag {source.etag}{version}"),
        *(of_full if full else ()),
        (done.objects_verified, f"every object checked again after its completion{how}"),
    ]
    given = bool(done.expected_sha256)
    was_not = [
        (
            not compared and given,
            "the SHA-256 of the archive was not compared with the expected one (--no-checksum)",
        ),
        (not compared and not given, "no expected SHA-256 was given (--expect-sha256)"),
        (done.source_integrity == "none", "nothing vouches for the source's bytes"),
        (done.source_copy_reason, f"source sent, not copied by the store: {done.source_copy_reason}"),
        (kind == "none", "the store did not check the parts"),
    ]
    return [
        *(f"[x] {text}" for holds, text in was if holds),
        *(f"[ ] {text}" for holds, text in was_not if full and holds),
    ]


def _replica(replica: PlaceReport) -> list[str]:
    error, place = replica.error, replica.destination
    return [f"ok      {place}"] if error is None else hanging(f"FAILED  {place}: ", error.message)


def _deployment(document: DeploymentDocument) -> Iterator[str]:
    references = document.bintarball_references
    for name, reference in (
        ("archive", references.model_archive),
        ("container", references.container_image),
    ):
        version = f", version {reference.version_id}" if reference.version_id else ""
        yield f"{name:<9}  {reference.s3_uri}"
        yield f"{'':11}{reference.size_human}, ETag {reference.etag}{version}"


def _pace(report: StageReport) -> str:
    from riva_stream.cli.progress import duration_text

    text = f"Took {duration_text(report.seconds) if report.seconds >= 60 else f'{report.seconds:.1f} s'}"  # noqa: PLR2004
    if report.mode == "full" and report.artifact is not None and report.outcome in {"staged", "upgraded"}:
        text += f", {human_rate(report.artifact.build_info.mib_per_second)} of the archive"
    return f"{text}; run {report.run_id}"


def _lanes(artifact: Artifact) -> list[str]:
    info = artifact.build_info
    rows = [f"{'lane':<12}{'bytes':>12}{'wall s':>10}{'busy s':>10}{'waiting s':>11}"]
    rows += [
        f"{name:<12}{human_size(lane.bytes):>12}{lane.wall_seconds:>10.2f}"
        f"{lane.busy_seconds:>10.2f}{lane.waiting_seconds:>11.2f}"
        for name, lane in info.lanes.items()
    ]
    per_gib = (
        "" if info.cpu_seconds_per_gib is None else f", {info.cpu_seconds_per_gib:.2f} per GiB of the source"
    )
    return [*rows, f"CPU {info.cpu_seconds:.2f} s{per_gib}"]


def _plan(plan: Plan) -> Iterator[str]:
    version = f", version {plan.source_version_id}" if plan.source_version_id else ""
    yield from (
        f"A run would {options.WOULD[plan.would]}",
        "",
        f"from    {plan.source}",
        f"        {human_size(plan.source_size)}, ETag {plan.source_etag}{version}",
        f"to      {plan.destination}",
        *((f"image   {plan.container_image.text()}",) if plan.container_image is not None else ()),
        f"models  {', '.join(plan.include)}" if plan.mode == "full" else "",
        "",
        "Keys it would write, in this order",
    )
    for item in plan.objects:
        size = f"parts of {human_size(item.part_size)}" if item.part_size else ""
        count = f"{item.parts} " if item.parts and item.part_size else ""
        yield f"  {item.key}  {count}{size}".rstrip()
    reading, writing = human_size(plan.read_share), human_size(plan.write_share)
    yield from (
        "",
        f"Memory  at most {human_size(plan.memory_ceiling)}: {reading} for reading, {writing} for writing",
        f"Parts   {human_size(plan.part_size)}, checked by {plan.upload_check}; {plan.connections} at once each way",
        "Tried   "
        + ", ".join(f"{it.of.replace('_', ' ')}: {', '.join(it.operations)}" for it in plan.rights),
        *(
            (f"Source  copied by the store, to be proven by {plan.source_copy}",)
            if plan.source_copy != "sent"
            else (f"Source  sent: {plan.source_copy_reason}",) * bool(plan.source_copy_reason)
        ),
    )


run = session_command(_stage, _text, hands_over="always")
