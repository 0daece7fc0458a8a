"""``retention``: the merged lifecycle rules on standard output; what they change and apply to on standard error."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import json_text, section, text_of
from riva_stream.cli.running import session_command
from riva_stream.errors import ConfigurationError
from riva_stream.layout import DEPLOYMENTS, is_segment
from riva_stream.redact import SECRETS
from riva_stream.sizes import human_size

if TYPE_CHECKING:
    from riva_stream.cli.session import Session
    from riva_stream.inspection.retention import Extent, RetentionReport

HELP = Help(
    summary="show, and print, the lifecycle rules for stagings",
    usage="s3://BUCKET [flags]",
    description="""\
Show the lifecycle rules of a bucket and what they would become: stagings expire, abandoned multipart uploads are
aborted. The result, on standard output, is all rules of the bucket, ours merged with those of others, as the document
that aws s3api put-bucket-lifecycle-configuration takes. Nothing is written.

Markers and documents expire after --days, archives and models --abort-days and one day later, so that no marker
outlives what it vouches for; on a store that is not AWS all expire after --days. Stagings of dev and staging expire
unless --env names others; those of prod only if --env prod is given. See also: PROG docs retention
""",
    examples="""\
  PROG retention s3://deployments
      the rules there, what they would become, and what they apply to now
  PROG retention s3://deployments --days 30 > lifecycle.json
  aws s3api put-bucket-lifecycle-configuration --bucket deployments --lifecycle-configuration file://lifecycle.json
      set them: dev and staging, 30 days
  PROG retention s3://deployments --env prod --days 365
      prod too; the rules for other environments stay
  PROG retention s3://deployments --remove
      without our rules for dev, staging and prod, those for expiry and those that abort uploads
""",
)
_MOST = 36500


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(parser, {"bucket": options.value("s3://BUCKET", "the bucket whose rules are shown")})
    options.add(
        parser.add_argument_group("rules"),
        {
            "--days": options.value(
                "N", "age at which markers and documents expire (default: 90)", _days, default=90
            ),
            "--env": options.value(
                "ENV",
                "environment to set rules for; may be repeated (default: dev, staging; never prod)",
                action="append",
            ),
            "--abort-days": options.value(
                "N",
                "age at which abandoned uploads are aborted; an interrupted run can be resumed until then (default: 7)",
                _days,
                default=7,
            ),
            "--noncurrent-days": options.value(
                "N",
                "in a versioned bucket: days after expiry until the bytes are removed (default: never)",
                _days,
            ),
            "--by-tag": options.flag("only objects tagged retention-days=DAYS (stage --tag)"),
            "--remove": options.flag(
                "remove all our rules for these environments (default: dev, staging and prod)"
            ),
        },
    )
    options.add_reading(parser)


def _work(session: Session) -> RetentionReport:
    report = _compare(session)
    if SECRETS.value(report.document) != report.document:
        raise ConfigurationError(
            "a rule contains a secret of this environment; redacted, it would be another rule",
            hint="unset the variable that holds it, such as a password that is also the name of a folder",
        )
    if not (session.args.json or session.args.quiet):
        session.observe(_text(report, session.invocation, session.args))
    return report


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise ArgumentTypeError(f"{text!r} is not a number of days: 1 to {_MOST}")
    return int(text)


def _compare(session: Session) -> RetentionReport:
    from riva_stream.inspection.retention import Policy, retention
    from riva_stream.inspection.uris import split

    args = session.args
    example = "s3://deployments; environments are chosen with --env"
    bucket, prefix = split(args.bucket, example)
    if prefix or bucket.startswith("arn:"):
        raise ConfigurationError(
            f"{args.bucket!r} is not a bucket: lifecycle rules belong to a whole one",
            hint=f"for example: {example}",
        )
    named = tuple(dict.fromkeys(args.env or ()))
    for env in named:
        if not is_segment(env):
            raise ConfigurationError(
                f"--env {env!r} is not the name of an environment", hint="for example: --env prod"
            )
        if DEPLOYMENTS.startswith(f"{env}/") and not args.remove:
            raise ConfigurationError(
                f"a rule for {env}/ would apply to the bintarball references of all environments, prod among them",
                hint="name the environments themselves, for example: --env dev",
            )
    policy = Policy(
        expire=named or ("dev", "staging"),
        clean=named or ("prod", "staging", "dev"),
        days=args.days,
        abort_days=args.abort_days,
        noncurrent_days=args.noncurrent_days,
        by_tag=args.by_tag,
        remove=args.remove,
    )
    return session.run(retention, session.endpoint().store(), bucket, policy, observer=session.observe)


def _text(report: RetentionReport, invocation: Invocation, args: Namespace) -> str:
    lines = [f"Lifecycle rules of s3://{report.bucket}", "", *(report.diff or ["  there are none"])]
    lines += [*section("What the rules for expiry apply to now", map(_extent, report.extent)), ""]
    lines += [line for extent in report.extent for line in _foreign(extent)]
    counts = [
        f"{count} {kind}"
        for kind in ("added", "changed", "removed")
        if (count := sum(change.change == kind for change in report.changes))
    ]
    if report.days_of_bytes == report.days:
        kept = f"Stagings and bintarball references expire after {report.days} days"
    else:
        kept = (
            f"Markers, documents and bintarball references expire after {report.days} days, archives and models "
            f"after {report.days_of_bytes}"
        )
    lines += [] if args.remove else [kept]
    if counts:
        lines += [
            f"Rules {', '.join(counts)}; those of others are as they were. Nothing was written. To apply them:",
            f"  {invocation.again()} > lifecycle.json",
            f"  {_put(report, args)}",
        ]
    else:
        lines.append("No changes needed")
    return text_of(lines)


def _put(report: RetentionReport, args: Namespace) -> str:
    """The command that puts the document; S3 accepts none without a rule, so then it deletes all rules."""
    words = ["aws", "s3api", "delete-bucket-lifecycle", "--bucket", report.bucket]
    if report.document["Rules"]:
        words[2] = "put-bucket-lifecycle-configuration"
        words += ["--lifecycle-configuration", "file://lifecycle.json"]
        if report.transition_minimum:
            words += ["--transition-default-minimum-object-size", report.transition_minimum]
    for flag in ("region", "endpoint_url", "profile", "ca_bundle"):
        if value := getattr(args, flag):
            words += [f"--{flag.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _extent(extent: Extent) -> str:
    least = "" if extent.complete else "at least "
    what = "reference" if extent.prefix.startswith(DEPLOYMENTS) else "staging"
    due = f", {extent.due} of them old enough to expire at once" if extent.due else ""
    return (
        f"{extent.prefix}  {least}{_count(extent.stagings, what)}, {_count(extent.objects, 'object')}, "
        f"{human_size(extent.size_bytes)}{due}"
    )


def _foreign(extent: Extent) -> list[str]:
    if not extent.foreign:
        return []
    more = extent.foreign - len(extent.foreign_keys)
    return [
        f"Careful: below {extent.prefix} {_count(extent.foreign, 'object')} of no staging would expire as well:",
        *(f"  {key}" for key in extent.foreign_keys),
        *([f"  and {more} more"] if more else []),
        "To spare them, tag stagings (stage --tag) and use --by-tag",
        "",
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


run = session_command(_work, lambda report, _: json_text(report.document))
