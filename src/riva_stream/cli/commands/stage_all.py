"""``stage-all``: everything that a catalogue lists."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riva_stream.cli import options
from riva_stream.cli.command import Help, Invocation
from riva_stream.cli.output import hanging, json_line, labelled, print_line, section, text_of
from riva_stream.cli.settings.env_file import EnvFile, read_env_file
from riva_stream.redact import SECRETS
from riva_stream.sizes import human_size

if TYPE_CHECKING:
    from riva_stream.catalogue import CatalogueReport, Engine, EntryReport, LoadedCatalogue
    from riva_stream.cli.overview import Overview
    from riva_stream.cli.session import Session

HELP = Help(
    summary="stage everything that a catalogue lists, here or on Ray",
    usage="CATALOGUE [flags]",
    description="""\
Stage every entry of a catalogue (TOML, or JSON by its name), as many at once as this host or a Ray cluster can. One that
fails holds up no other. Running the same command again is always safe, from any host: each existing staging takes one
check, and interrupted ones are resumed.

The catalogue alone says what to stage. The flags of S3, the environment and .env say how to reach it, where the
catalogue does not.
""",
    examples="""\
  PROG stage-all catalogue.toml
      everything; running it again resumes
  PROG stage-all catalogue.toml --dry-run
      checks each source, destination and right, writes nothing
  PROG stage-all catalogue.toml --only 'prod/parakeet-*/*' --at-once 4
  PROG stage-all catalogue.toml --engine ray --ray-address ray-head:6379 --json
""",
    json_lines=True,
)


def configure(parser: ArgumentParser) -> None:
    """Add the command's arguments."""
    options.add(
        parser, {"catalogue": options.value("CATALOGUE", "a TOML file; .json: JSON (schema catalogue)", Path)}
    )
    group = parser.add_argument_group("stagings")
    options.add(
        group,
        {
            "--engine": options.choice(("local", "ray"), "default: local", default="local"),
            "--ray-address": options.value(
                "HOST:PORT", "of a cluster; default: $RAY_ADDRESS, else one on this host"
            ),
            "--at-once": options.value(
                "N",
                "stagings at the same time (default: as memory and cores allow; ray: all, as the cluster has room)",
                _count,
            ),
            "--only": options.value(
                "PATTERN", "entries whose ENV/MODEL_NAME/MODEL_VERSION, or whole URI, matches"
            ),
            "--dry-run": options.flag("check everything, write nothing"),
        },
    )
    options.add(
        group.add_mutually_exclusive_group(),
        {
            "--keep-going": {
                "action": "store_false",
                "dest": "fail_fast",
                "default": False,
                "help": "after a failure too (the default)",
            },
            "--fail-fast": options.flag("stop the others at the first failure"),
        },
    )
    options.add_reading(parser, source="these and those of S3: where the catalogue says nothing")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} must be 1 or greater")
    return int(text)


_LEVELS = 6
"""Slashes in ``s3://BUCKET/ENV/MODEL_NAME/MODEL_VERSION/``; an entry whose archives could not be listed has fewer."""
_NO_REGION = "none"


def run(args: Namespace, invocation: Invocation) -> int:
    """Stage everything and show the result."""
    from riva_stream.cli.session import execute

    as_json = args.json

    def text(report: CatalogueReport, _: Session) -> str:
        if not as_json:
            return _summary(report, invocation)
        return _line({**report.model_dump(mode="json", exclude={"entries"}), "entries": len(report.entries)})

    return execute(args, invocation, _stage_all, text)


def _stage_all(session: Session) -> CatalogueReport:
    from riva_stream.catalogue import EntryEnded, load_catalogue, stage_all

    args = session.args
    loaded = load_catalogue(args.catalogue)
    file = read_env_file(args.env_file)
    fallback = _fallback(session, loaded, file)
    overview, shown = _overview(session)

    def observe(event: Any, /) -> None:
        overview.observe(event)
        if args.json and isinstance(event, EntryEnded):
            print_line(_line(event.report.model_dump(mode="json")))

    engine = _engine(session, file)
    with shown:
        report = session.run(
            stage_all,
            loaded,
            engine=engine,
            observer=observe,
            only=args.only,
            dry_run=args.dry_run,
            fail_fast=args.fail_fast,
            fallback=fallback,
        )
    args.json = False  # each entry has had its line; only a failure of the whole is still a document
    return report


def _fallback(session: Session, loaded: LoadedCatalogue, file: EnvFile) -> dict[str, Any]:
    """How to reach the stores, where the catalogue does not say; this process has the credentials from here on."""
    from riva_stream.catalogue.plan import prepare
    from riva_stream.config import Stores

    # A region need not be found elsewhere when every entry has what is needed.
    complete = all(
        template.fields.get("region") or template.fields.get("endpoint_url") for template in prepare(loaded)
    )
    found = session.endpoint({"region": _NO_REGION} if complete else None, env_file=file)
    return {
        name: value for name, value in found if name in Stores.model_fields and value and value != _NO_REGION
    }


def _engine(session: Session, file: EnvFile) -> Engine:
    args = session.args
    if args.engine == "ray":
        from riva_stream.catalogue.ray_engine import RayEngine

        return RayEngine(args.ray_address, at_once=args.at_once)
    from riva_stream.catalogue.local import LocalEngine, end_children, stage_in_child

    state_dir = options.state_dir_of(args, file)
    if not args.dry_run:
        _check_state(state_dir)
    session.watch.before_the_end(end_children)
    return LocalEngine(
        at_once=args.at_once, run=partial(stage_in_child, state_dir=state_dir, env_file=file.values)
    )


def _check_state(folder: Path) -> None:
    """Find out before anything starts what would end each child.

    Raises:
        ConfigurationError: the state directory cannot be written.
    """
    from tempfile import TemporaryFile

    from riva_stream.errors import unwritable_state

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable_state(folder, error) from error


def _overview(session: Session) -> tuple[Overview, AbstractContextManager[object]]:
    from riva_stream.cli.overview import LiveOverview, Overview, PlainOverview, can_draw

    args = session.args
    if args.quiet:
        return Overview(), nullcontext()
    if args.log_format in {"auto", "pretty"} and can_draw():
        live = LiveOverview()
        return live, live.shown()
    return PlainOverview(session.observe), nullcontext()


def _line(document: Mapping[str, Any]) -> str:
    return json_line(SECRETS.value(dict(document)))


def _summary(report: CatalogueReport, invocation: Invocation) -> str:
    from riva_stream.cli.progress import duration_text

    good = sum(not entry.exit_code for entry in report.entries)
    took = f"engine {report.engine}, {duration_text(report.seconds)}"
    lines = [f"{report.catalogue}: {good} of {len(report.entries)} done, {took}", ""]
    lines += [row for entry in report.entries for row in _rows(entry, invocation)]
    lines += section("Not staged, since their names do not match the pattern", report.passed_over)
    if report.exit_code:
        lines += ["", f"Next: correct what failed, then run the same command again: {invocation.again()}"]
    return text_of(lines)


def _rows(entry: EntryReport, invocation: Invocation) -> list[str]:
    word = entry.outcome.replace("_", " ")
    code = str(entry.exit_code) if entry.outcome == "failed" else ""
    size = human_size(entry.size_bytes) if entry.size_bytes else ""
    rows = [f"  {word:<16} {code:>3}  {entry.destination}  {size}".rstrip()]
    if entry.error is not None:
        rows += hanging(f"{'':24}", entry.error.message)
    if entry.would:
        rows.append(f"{'':24}would {options.WOULD[entry.would]}")
    rows += [f"{'':24}warning: {warning.message}" for warning in entry.warnings]
    steps = [line for line in invocation.with_program_name(entry.next_step).split("\n") if line.strip()]
    if entry.exit_code and entry.destination.count("/") == _LEVELS:
        path = "/".join(entry.destination.rstrip("/").split("/")[-3:])
        steps.append(invocation.again(only=path))
    return [*rows, *labelled(f"{'':24}next: ", steps)]
