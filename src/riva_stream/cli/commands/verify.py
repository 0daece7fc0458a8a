"""``verify``: is what is staged still what was staged?"""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import section, text_of
from riva_stream.cli.running import session_command
from riva_stream.errors import ConfigurationError, IntegrityError
from riva_stream.layout import DEPLOYMENTS, is_bintarball
from riva_stream.sizes import human_rate, human_size
from riva_stream.uris import key_of, split_uri

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.inspection.reports import VerifiedObject, VerifyReport

HELP = Help(
    summary="check that every object still matches the manifest",
    usage="[s3://BUCKET/ENV/MODEL/VERSION/] [flags]",
    description="""\
Compare everything that is staged below a prefix with its manifest: the marker, artifact.json, the manifest and the
checksum file against each other, every object's size, ETag, version, store checksum and run id against them, and look
for extra keys. With --deep also read every object whole, several at once and nothing of it to disk, and compare
SHA-256, and of the models BLAKE3. A staging by reference is compared with the source that it points at. Nothing is written.

All differences are listed. Exit code 0: it matches; 65: it does not; 66: nothing is staged there (the message says
what there is); 75: it was replaced meanwhile; 77: something may not be read.
""",
    examples="""\
  PROG verify s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/
      seconds: no object is read
  PROG verify
      the staging that the settings of stage name, from the environment and .env
  PROG verify s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --deep
      every byte is read
  PROG verify s3://deployments/prod/parakeet-rnnt-en-us/v2025.09/ --json | jq '.objects[] | select(.ok | not)'
      what differs, and in what
""",
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add_staging(parser)
    options.add(
        parser,
        {
            "--deep": options.flag("read every object and compare its digests"),
            "--connections": options.value(
                "N", "with --deep: concurrent requests per object (default: 8)", int, default=8
            ),
            "--memory": options.value(
                "SIZE",
                "with --deep: memory ceiling of the process (default: 256MiB)",
                options.parse_size,
                default=256 << 20,
            ),
        },
    )
    options.add_reading(parser, source="used only for a staging by reference")


_FLAGS = ("--env", "--model-name", "--model-version")
_MODE_FLAGS = {"reference_only": "--reference-only", "bintarball_reference": "--bintarball-reference"}
_MOST_EXTRA_SHOWN = 20
_MOST_CONNECTIONS = 256


def _verify(session: Session) -> VerifyReport:
    from riva_stream.inspection.verify import verify

    args = session.args
    if not 1 <= args.connections <= _MOST_CONNECTIONS:
        raise ConfigurationError(
            f"--connections is {args.connections}", hint=f"pass 1 to {_MOST_CONNECTIONS}, for example 8"
        )
    endpoint = session.endpoint()
    bucket, prefix = endpoint.staging(args.prefix)

    settings = replace(endpoint.store(), connections=2 * args.connections + 8)
    elsewhere = replace(
        settings,
        region=endpoint.source_region or endpoint.region,
        endpoint_url=endpoint.source_endpoint_url or endpoint.endpoint_url,
        profile=endpoint.source_profile or endpoint.profile,
        unsigned=endpoint.no_sign_request,
    )
    return session.run(
        verify,
        settings,
        bucket,
        prefix,
        deep=args.deep,
        connections=args.connections,
        memory=args.memory,
        source_settings=None if elsewhere == settings else elsewhere,
        observer=session.observe,
    )


def _text(report: VerifyReport, session: Session) -> str:
    invocation = session.invocation
    wrong = [entry for entry in report.objects if not entry.ok]
    head = (
        "Verified: every object matches the manifest"
        if report.ok
        else f"DIFFERS: {len(wrong)} of {len(report.objects)} objects do not match the manifest"
    )
    how = options.MODES[report.mode] if report.mode else "in an unknown mode"
    lines = [f"{head} ({how}, {report.depth})", "", report.destination]
    if report.run_id and report.staged_at:
        lines.append(f"staged {report.staged_at:%Y-%m-%d %H:%M:%S}Z by run {report.run_id}")
    lines += ["", *_rows(report)]
    more = len(report.extra) - _MOST_EXTRA_SHOWN
    shown = [*report.extra[:_MOST_EXTRA_SHOWN], *([f"… and {more} more"] if more > 0 else [])]
    lines += section("Extra keys", shown)
    notes = [note.message for note in report.notes]
    notes += [f"the source's SHA-256 is {report.source_sha256}"] if report.source_sha256 else []
    lines += section("Notes", notes)
    pace = f"Took {report.seconds:.1f} s"
    if report.read is not None:
        pace += f"; {human_size(report.read.bytes)} read at {human_rate(report.read.mib_per_second)}"
    lines += ["", pace]
    if not report.ok:
        lines += ["", *_next(report, wrong, invocation)]
    elif report.read is None and report.mode == "full":
        lines += ["", f"Next: read every byte as well: {invocation.again('--deep')}"]
    return text_of(lines)


def _next(report: VerifyReport, wrong: list[VerifiedObject], invocation: Invocation) -> list[str]:
    from riva_stream.inspection.reports import NOT_STAGED

    bucket, prefix = split_uri(report.destination)
    if all(found.code == NOT_STAGED for entry in wrong for found in entry.differences):
        commands = (shlex.join(["aws", "s3", "rm", f"s3://{bucket}/{entry.key}"]) for entry in wrong)
        return ["Next: delete the extra keys:", *(f"  {command}" for command in commands)]
    levels = prefix.removeprefix(DEPLOYMENTS if is_bintarball(prefix) else "").rstrip("/").split("/")
    if report.source is None or len(levels) != len(_FLAGS):
        return [
            "Next: stage it again with --force, which replaces what is there once the new one is verified"
        ]
    flags = ["--source", report.source, "--bucket", bucket]
    flags += [word for pair in zip(_FLAGS, levels, strict=True) for word in pair]
    flags += [_MODE_FLAGS[report.mode]] if report.mode in _MODE_FLAGS else []
    flags += ["--server-path", report.container] if report.container else []
    return [
        "Next: stage it again; what is there is replaced once the new one is verified:",
        f"  {invocation.prog} stage {shlex.join(flags)} --force",
    ]


def _rows(report: VerifyReport) -> Iterator[str]:
    prefix = key_of(report.destination)
    names = {entry.key: entry.key.removeprefix(prefix) for entry in report.objects}
    width = max(map(len, names.values()), default=0)
    for entry in report.objects:
        mark, said = ("ok", ", ".join(entry.by)) if entry.ok else ("DIFFERS", entry.difference)
        size = "" if entry.size_bytes is None else human_size(entry.size_bytes)
        yield f"  {mark:<8}{names[entry.key]:<{width}}  {size:>11}  {said}".rstrip()


run = session_command(_verify, _text, lambda report, _: 0 if report.ok else IntegrityError.exit_code)
