"""The report of a failed run: what happened, where, and what to do next."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from riva_stream.cli.command import Invocation
from riva_stream.cli.loop import Interrupted
from riva_stream.cli.output import labelled, text_of
from riva_stream.cli.settings.places import Places
from riva_stream.errors import (
    AccessDeniedError,
    DestinationConflictError,
    HeldError,
    RivaStreamError,
    TransientError,
    Where,
    leaves_of,
    out_of_resources,
    raise_limits,
)
from riva_stream.manifest import Finding
from riva_stream.redact import SECRETS, redact
from riva_stream.report import ErrorReport, error_report

__all__ = ["Failure", "failure_of"]

_BUG = 1


class Failure(ErrorReport):
    """Any failure, in words. docs/json.md says what programs branch on."""

    where: Where
    hint: str
    layers: tuple[str, ...] = ()
    """What was found in place of an archive, outermost first."""
    problems: tuple[Any, ...] = ()
    also: tuple[Finding, ...] = ()
    """Other errors at the same moment, and what was ignored before."""
    policy: Mapping[str, Any] | None = None
    """An IAM policy that grants what was denied."""
    log_file: str = ""
    """The run's log; empty where there is none."""
    diagnostics: str = ""
    """The file to attach to a report; empty where there is none."""
    trace: str = Field(default="", exclude=True)
    listed: tuple[str, ...] = Field(default=(), exclude=True)
    """The lines at the end of the message, where each follows a newline and two spaces; it has no others of ours."""

    @field_validator("message", "hint", "log_file", "diagnostics", "trace", mode="before")
    @classmethod
    def _is_utf8(cls, text: str) -> str:
        return _printable(text)

    def text(self, run_id: str, *, debug: bool) -> str:
        """The failure for people."""
        below = "".join(f"\n  {line}" for line in self.listed)
        lines = [f"riva_stream: {self.message.removesuffix(below)}", *(f"  {line}" for line in self.listed)]
        lines += [f"  {line}" for problem in self.problems for line in str(problem).split("\n")]
        if str(self.where):
            lines.append(f"  where: {self.where}")
        lines += [f"  also:  {other.message}" for other in self.also]
        lines += labelled("  next:  ", self.hint.split("\n") if self.hint else ())
        if self.policy is not None:
            lines.append("         this policy grants it:")
            lines += [f"         {line}" for line in json.dumps(self.policy, indent=2).splitlines()]
        files = (("log:", self.log_file), ("diagnostics:", self.diagnostics))
        lines += [f"  {name:13}{path}" for name, path in files if path]
        lines.append(f"  exit code {self.exit_code}" + (f", run {run_id}" if run_id else ""))
        if debug:
            lines += ["", *self.trace.rstrip("\n").split("\n")]
        return redact(text_of(lines))

    def document(self, run_id: str) -> dict[str, Any]:
        """The failure for programs, without empty fields."""
        document: dict[str, Any] = SECRETS.value(
            {"error": self.model_dump(exclude_defaults=True), "run_id": run_id or None}
        )
        return document


def failure_of(error: BaseException, invocation: Invocation) -> Failure:
    """Put ``error`` into words; of a group, the error that matters most."""
    leaves = _leaves(error)
    # A bug first, since nothing else can be trusted then; then what a rerun does not fix.
    worst = min(
        leaves, key=lambda leaf: (isinstance(leaf, RivaStreamError), getattr(leaf, "retryable", False))
    )
    also = tuple(_finding(leaf) for leaf in leaves if leaf is not worst)
    trace = "".join(traceback.format_exception(error))
    if isinstance(worst, Interrupted):
        return Failure(
            type="Interrupted",
            code="interrupted",
            message=f"interrupted by {worst}; everything a rerun can use was kept",
            where=Where(),
            hint=f"to resume, run the same command again:\n{invocation.again()}",
            exit_code=worst.exit_code,
            also=(_finding(error.__cause__),) if error.__cause__ else (),
            trace=trace,
        )
    if out_of_resources(worst):
        short = error_report(worst)
        return Failure(
            type=short.type,
            code=short.code,
            message=short.message,
            where=getattr(worst, "where", Where()),
            hint=f"{raise_limits()}:\n{invocation.again()}",
            exit_code=short.exit_code,
            also=also,
            trace=trace,
        )
    if isinstance(worst, RivaStreamError) and worst.exit_code != _BUG:
        return Failure(
            type=type(worst).__name__,
            code=worst.code,
            message=worst.what,
            listed=worst.listed,
            where=worst.where,
            hint=_hint(worst, invocation),
            exit_code=worst.exit_code,
            problems=getattr(worst, "problems", ()),
            also=(
                *also,
                *(
                    Finding(code="ignored", message=_printable(text))
                    for text in getattr(worst, "ignored", ())
                ),
            ),
            trace=trace,
            policy=_policy(worst) if isinstance(worst, AccessDeniedError) else None,
            layers=getattr(worst, "layers", ()),
        )
    last = traceback.extract_tb(worst.__traceback__)[-1:]
    place = "".join(
        f" at {frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}" for frame in last
    )
    return Failure(
        type=type(worst).__name__,
        code="bug",
        message=f"this is a bug in riva_stream, not in your set-up: {type(worst).__name__}: {worst}{place}",
        where=worst.where if isinstance(worst, RivaStreamError) else Where(),
        hint="please report it to the maintainers with these lines, --version and the traceback; to see that:\n"
        + invocation.again("--debug"),
        exit_code=_BUG,
        also=also,
        trace=trace,
    )


_RESUMED = {("stage",), ("stage-all",), ("promote",)}
"""Commands that resume where they were interrupted; all others only read."""


def _hint(error: RivaStreamError, invocation: Invocation) -> str:
    match error:
        case HeldError() | DestinationConflictError() if (
            error.hint
        ):  # it says what to do: here is the command
            force = ("--force",) if isinstance(error, DestinationConflictError) else ()
            return f"{invocation.with_program_name(error.hint)}:\n{invocation.again(*force)}"
        case TransientError():
            changes = invocation.argv[:1] in _RESUMED and "--dry-run" not in invocation.argv
            resumes = ", it resumes from here" if changes else ""
            command = f"run the same command again{resumes}:\n{invocation.again()}"
        case DestinationConflictError():
            command = f"to replace the staging there:\n{invocation.again('--force')}"
        case AccessDeniedError() if invocation.argv[:1] in {("stage",), ("check",)}:
            command = f"all that a run needs is printed by:\n{invocation.other('policy', '--limit')}"
        case _:
            command = ""
    return "\n".join(text for text in (invocation.with_program_name(error.hint), command) if text)


def _policy(error: AccessDeniedError) -> dict[str, Any] | None:
    """The policy that grants the denied access; None where that is unknown."""
    from riva_stream.preflight.policy import PolicyDocument, grants_for  # noqa: PLC0415 - for this error alone

    places = Places()  # only the environment: the file may be what ended the run
    region = places.text("AWS_REGION") or places.text("AWS_DEFAULT_REGION") or None
    grants = error.grants or tuple(grant.model_dump() for grant in grants_for(error, region=region))
    return PolicyDocument.model_validate({"Statement": grants}).model_dump() if grants else None


def _finding(error: BaseException) -> Finding:
    return Finding(
        code=error.code if isinstance(error, RivaStreamError) else "bug", message=_printable(str(error))
    )


def _printable(text: str) -> str:
    """Escape surrogates: names of files may be any bytes, which JSON cannot hold."""
    return text.encode(errors="backslashreplace").decode()


def _leaves(error: BaseException) -> list[BaseException]:
    """The single errors of a group; cancellations are not errors of their own."""
    leaves = leaves_of(error)
    return [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)] or leaves[:1]
