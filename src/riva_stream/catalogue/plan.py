"""From a catalogue to requests: every entry in every environment, for every archive, at every place."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from riva_stream.arguments import require
from riva_stream.catalogue.engine import identity_of
from riva_stream.catalogue.line_numbers import Path
from riva_stream.catalogue.load import CatalogueError, LoadedCatalogue, Problem, parse, wrong_of
from riva_stream.catalogue.model import LEVELS, PLACE
from riva_stream.config import StageRequest, contradictions_in
from riva_stream.errors import RivaStreamError, SourceNotFoundError
from riva_stream.layout import FOLDERS, prefix_of
from riva_stream.pipeline.stores import is_elsewhere
from riva_stream.uris import GLOB, key_of

__all__ = [
    "Job",
    "ListArchives",
    "Plan",
    "RequestTemplate",
    "Unlisted",
    "expand",
    "jobs_of",
    "load_catalogue",
    "matches",
    "prepare",
]

ListArchives = Callable[[StageRequest], Awaitable[Sequence[str]]]
"""Returns the keys of all archives that match a request's ``source``, a prefix or a glob."""

Job = tuple[StageRequest, ...]
"""One read of a source: a request for its first place, and one for each further place, which gets the same content."""

_ONE_OF = re.compile(r"\[!?\]?[^\]]*\]")
_PART = re.compile(r"\{(\w*)\}|\*|[^{*]+|\{")
_NAMES = ("model_name", "model_version", "language", "architecture")
_ENDPOINT_FIELDS = ("region", "endpoint_url", "profile")
_RESOLVED = ("source", *(f"source_{name}" for name in _ENDPOINT_FIELDS), "server_path", "architecture")
"""Fields that mean one thing at one place, and may mean another elsewhere."""
_WHERE = frozenset({*LEVELS, "region", "endpoint_url", "bintarball_reference"})
"""Fields that decide whether two destinations are the same."""
_UNNAMED = {"model_name": "x", "model_version": "x"}
"""Placeholders for names that only an archive's key gives."""


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """One entry in one environment. With a pattern, its source may match many archives."""

    fields: Mapping[str, Any]
    path: Path
    pattern: re.Pattern[str] | None
    replicas: tuple[Mapping[str, Any], ...]
    replicas_at: Path
    """Where in the file the list of replicas is."""
    origins: tuple[Path, ...]
    """Tables of the file that the fields come from, highest precedence first."""
    lost: frozenset[str] = frozenset()
    """Fields that are missing, or wrong and left out: nothing is made of such a template, it is only checked."""

    @property
    def is_open(self) -> bool:
        """Whether the archives have to be listed."""
        key = key_of(self.fields["source"])
        return self.pattern is not None and (key.endswith("/") or bool(GLOB.search(key)))


@dataclass(frozen=True, slots=True)
class Unlisted:
    """An entry in one environment without archives."""

    request: StageRequest
    """Only its source, bucket and environment are meaningful."""
    error: RivaStreamError
    was_listed: bool
    """It is known that there are none; otherwise there may be any."""
    names: tuple[str, ...]
    """Names for ``--only`` of what might have been staged, with ``*`` for what only an archive's key gives."""

    def may_match(self, pattern: str | None) -> bool:
        """Whether ``--only`` may refer to one of them."""
        return pattern is None or any(_overlap(name, _ONE_OF.sub("?", pattern)) for name in self.names)


@dataclass(frozen=True, slots=True)
class Plan:
    """All requests of a catalogue, in its order."""

    requests: list[tuple[StageRequest, Path]] = field(default_factory=list)
    """Each with its entry."""
    failed: list[Unlisted] = field(default_factory=list)
    """Entries whose archives could not be listed, or that have none."""
    passed_over: list[str] = field(default_factory=list)
    """Sources that match the glob of an entry, but neither its pattern nor any other entry."""


def load_catalogue(path: FilePath | str, fallback: Mapping[str, Any] | None = None) -> LoadedCatalogue:
    """Read a catalogue, and check all that can be checked without contacting a store.

    Args:
        path: of a TOML file, or of a JSON file where its name ends in ``.json``.
        fallback: fields of requests that the catalogue does not set, from the environment for example.

    Raises:
        CatalogueError: it cannot be read, or something is wrong with it; ``problems`` lists everything.
    """
    require(isinstance(path, FilePath | str), "path", "the path of a file", path)
    loaded = parse(path)
    prepare(loaded, fallback)
    return loaded


def prepare(loaded: LoadedCatalogue, fallback: Mapping[str, Any] | None = None) -> list[RequestTemplate]:
    """Check all that can be checked without contacting a store.

    Args:
        loaded: the catalogue.
        fallback: fields of requests that it does not set, from the environment for example.

    Raises:
        CatalogueError: entries are incomplete or wrong, or two of them have the same destination.
    """
    problems = list(loaded.problems)
    templates = list(_templates(loaded, {"wait": True, **(fallback or {})}, problems))
    plan = Plan()
    for template in templates:
        if "source" in template.lost or template.is_open:
            _add(Plan(), loaded, template, {**_UNNAMED, **template.fields}, problems)
        else:
            to = Plan() if template.lost & _WHERE else plan  # its destination is unknown
            _add_archive(to, loaded, template, template.fields["source"], problems)
    problems += _duplicates(plan, loaded)
    problems += _unused(loaded)
    if problems:
        raise CatalogueError.of(loaded.name, problems)
    return templates


async def expand(
    loaded: LoadedCatalogue, templates: Sequence[RequestTemplate], list_archives: ListArchives
) -> Plan:
    """Return the requests of all templates; archives are listed where a template may match many.

    Raises:
        CatalogueError: names of archives do not make valid stagings, or make the same one twice.
    """
    plan, problems = Plan(), list[Problem]()
    listed: dict[str, Sequence[str]] = {}  # the same archives in several environments are listed once
    passed_over: dict[tuple[str, str], None] = {}
    for template in templates:
        if not template.is_open:
            _add_archive(plan, loaded, template, template.fields["source"], problems)
            continue
        request = StageRequest.model_validate({**_UNNAMED, **template.fields})
        where = _source_of(request)
        try:
            if where not in listed:
                listed[where] = await list_archives(request)
            named = {key: _names(template, key) for key in listed[where]}
            keys = [
                key for key, names in named.items() if names is None or not _is_own_copy(request, names, key)
            ]
            fitting = [key for key in keys if named[key] is not None]
            passed_over |= {
                (_way_of(request), f"s3://{request.source_bucket}/{key}"): None
                for key in keys
                if named[key] is None
            }
            if not fitting:
                raise SourceNotFoundError(
                    f"none of the {len(keys)} archives that match {request.source} has a name that matches the pattern"
                    if keys
                    else f"no archive matches {request.source}",
                    hint="correct source or pattern of the entry",
                )
        except RivaStreamError as error:
            plan.failed.append(
                Unlisted(request, error, where in listed, tuple(_possible(template, request.mode)))
            )
            continue
        for key in fitting:
            _add_archive(plan, loaded, template, f"s3://{request.source_bucket}/{key}", problems)
    staged = {(_way_of(request), request.source) for request, _ in plan.requests}
    plan.passed_over.extend(
        dict.fromkeys(source for way, source in passed_over if (way, source) not in staged)
    )
    problems += _duplicates(plan, loaded)
    if problems:
        raise CatalogueError.of(loaded.name, problems)
    return plan


def jobs_of(requests: Sequence[StageRequest]) -> list[Job]:
    """Combine requests for the same content that differ only in place into one job.

    Only this function knows about that: what is read once for all of them is up to the runner of the job.
    """
    groups: dict[str, list[StageRequest]] = {}
    for request in requests:
        groups.setdefault(_content_of(request), []).append(request)
    return [tuple(group) for group in groups.values()]


def _content_of(request: StageRequest) -> str:
    """All that a staging consists of, whatever its place.

    What a field means may depend on the place: such a field counts as what it means there.
    """
    fields = request.model_dump(mode="json", exclude={*PLACE, *_RESOLVED})
    return json.dumps([fields, _source_of(request), _image_of(request), request.model_architecture])


def _image_of(request: StageRequest) -> list[str | None]:
    """The container image, and through which endpoint it is read: one outside the bucket, through the source's."""
    if request.server_path is None:
        return []
    is_here = request.server_bucket == request.bucket
    endpoint = [getattr(request, name) for name in _ENDPOINT_FIELDS] if is_here else _source_endpoint(request)
    return [*endpoint, request.server_bucket, request.server_key]


def _source_of(request: StageRequest) -> str:
    """What is read, and through which endpoint: the same URI at another endpoint is another object."""
    return json.dumps([request.source, _way_of(request)])


def _way_of(request: StageRequest) -> str:
    """Endpoint and credentials through which the source is read."""
    return json.dumps([*_source_endpoint(request), request.no_sign_request])


def _source_endpoint(request: StageRequest) -> list[str | None]:
    return [getattr(request, f"source_{name}") or getattr(request, name) for name in _ENDPOINT_FIELDS]


def matches(request: StageRequest, pattern: str | None) -> bool:
    """Whether ``--only`` selects it: a shell pattern for ``ENV/MODEL_NAME/MODEL_VERSION`` or the whole URI."""
    names = (
        f"{request.env}/{request.model_name}/{request.model_version}",
        request.destination,
        request.destination.rstrip("/"),
    )
    return pattern is None or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def _possible(template: RequestTemplate, mode: str) -> Iterator[str]:
    """The names of each place that archives of a template would have, with ``*`` for what only their keys give."""
    told = dict.fromkeys(template.pattern.groupindex, "*") if template.pattern is not None else {}
    for place in ({}, *template.replicas):
        fields = {**dict.fromkeys(LEVELS, "*"), **template.fields, **told, **place}
        bucket, *levels = (str(fields[name]) for name in LEVELS)
        uri = f"s3://{bucket}/{prefix_of(mode, *levels)}"
        yield from ("/".join(levels), uri, uri.rstrip("/"))


def _overlap(one: str, other: str) -> bool:
    """Whether two shell patterns of ``*`` and ``?`` can match the same text."""
    todo, seen = [(0, 0)], set[tuple[int, int]]()
    while todo and (len(one), len(other)) not in seen:
        i, j = place = todo.pop()
        if place in seen:
            continue
        seen.add(place)
        first, second = one[i : i + 1], other[j : j + 1]
        if "*" in {first, second}:
            todo += [(i + len(first), j), (i, j + len(second))]
        elif first and second and (first == second or "?" in {first, second}):
            todo.append((i + 1, j + 1))
    return (len(one), len(other)) in seen


def _templates(
    loaded: LoadedCatalogue, weakest: Mapping[str, Any], problems: list[Problem]
) -> Iterator[RequestTemplate]:
    catalogue = loaded.catalogue
    defaults = catalogue.defaults.model_dump(exclude_unset=True)
    dropped: dict[Path, set[str]] = {}
    for place in loaded.dropped:
        dropped.setdefault(place[:-1], set()).add(str(place[-1]))
    for index, entry in enumerate(catalogue.staging):
        path: Path = ("staging", index)
        if path in loaded.dropped:
            continue
        own = entry.model_dump(exclude_unset=True, exclude={"pattern"})
        absent = {*_NAMES} if (*path, "pattern") in loaded.dropped else set[str]()
        pattern = None
        try:
            pattern = _compile(entry.pattern) if entry.pattern is not None else None
        except ValueError as error:
            problems.append(loaded.problem((*path, "pattern"), "malformed", str(error)))
            absent = {*_NAMES}
        for name in ("env", "source"):
            wrong = {(*path, name), ("defaults", name)} & loaded.dropped
            if (*path, name) in wrong or not (own.get(name) or defaults.get(name)):
                absent.add(name)
                problems += [] if wrong else [loaded.problem(path, "missing", f"is missing {name}")]
        environments = ("any",) if "env" in absent else own.get("env") or defaults["env"]
        for env in environments:
            if ("environments", env) in loaded.dropped:
                continue
            shared = catalogue.environments.get(env)
            of_env = shared.model_dump(exclude_unset=True) if shared is not None else {}
            layers = {path: own, ("environments", env): of_env, ("defaults",): defaults}
            fields = {**weakest, **defaults, **of_env, **own, "env": env}
            lost = _lost(layers, dropped) | absent
            replicas = () if "replicate_to" in lost else fields.pop("replicate_to", ())
            at = next((place for place, layer in layers.items() if "replicate_to" in layer), path)
            yield RequestTemplate(
                {name: value for name, value in fields.items() if name not in lost | {"replicate_to"}},
                path,
                pattern,
                tuple(replicas),
                (*at, "replicate_to"),
                tuple(layers),
                lost,
            )


def _lost(layers: Mapping[Path, Mapping[str, Any]], dropped: Mapping[Path, set[str]]) -> frozenset[str]:
    """The fields whose value, at the highest precedence that has one, was wrong."""
    lost, found = set[str](), set[str]()
    for path, layer in layers.items():
        wrong = dropped.get(path, set())
        lost |= wrong - found
        found |= wrong | layer.keys()
    return frozenset(lost)


def _compile(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for the end of a key.

    Raises:
        ValueError: it names a field that no file name gives, or a field twice.
    """
    text = ""
    for part in _PART.finditer(pattern):
        if part[1] is not None:
            if part[1] not in _NAMES:
                raise ValueError(f"has {{{part[1]}}}, which is not one of {', '.join(_NAMES)}")
            if f"(?P<{part[1]}>" in text:
                raise ValueError(f"has {{{part[1]}}} twice")
            text += f"(?P<{part[1]}>[A-Za-z0-9._-]+)"
        else:
            text += "[^/]*" if part[0] == "*" else re.escape(part[0])
    return re.compile(f"(?:.*/)?{text}")


def _names(template: RequestTemplate, key: str) -> dict[str, str] | None:
    """The names in the key of an archive; None where the pattern does not match."""
    if template.pattern is None:
        return {}
    match = template.pattern.fullmatch(key)
    return match.groupdict() if match else None


def _is_own_copy(request: StageRequest, names: Mapping[str, str], key: str) -> bool:
    """Whether a listed archive is the copy that this very staging has put beside its models."""
    return (
        request.source_bucket == request.bucket
        and not is_elsewhere(request)
        and key.startswith(request.with_valid(names).prefix + FOLDERS[0])
    )


def _add_archive(
    plan: Plan, loaded: LoadedCatalogue, template: RequestTemplate, source: str, problems: list[Problem]
) -> None:
    names = _names(template, key_of(source))
    if names is None:
        problems.append(
            loaded.problem((*template.path, "pattern"), "contradiction", f"does not match {source}")
        )
        return
    _add(plan, loaded, template, {**template.fields, **names, "source": source}, problems)


def _add(
    plan: Plan,
    loaded: LoadedCatalogue,
    template: RequestTemplate,
    fields: Mapping[str, Any],
    problems: list[Problem],
) -> None:
    """Add the requests of one archive: its first place, and its replicas."""
    places = [(dict(fields), template.origins)]
    for number, place in enumerate(template.replicas):
        changed = {name for name in _ENDPOINT_FIELDS if name in place and fields.get(name) != place[name]}
        # The settings of the source must not change with the place.
        source = {
            f"source_{name}": fields[name]
            for name in changed
            if fields.get(name) is not None and fields.get(f"source_{name}") is None
        }
        places.append(({**fields, **source, **place}, ((*template.replicas_at, number), *template.origins)))
    for merged, origins in places:
        try:
            plan.requests.append((StageRequest.model_validate(merged), origins[0]))
        except ValidationError as error:
            for item in error.errors():
                loc = tuple(item["loc"])
                known = ((*origin, *loc) for origin in origins if (*origin, *loc[:1]) in loaded.lines.known)
                # A missing field, or a contradiction, is the entry's.
                path = next(known, origins[0]) if loc else origins[0]
                if loc and loc[0] not in template.lost:
                    problems.append(loaded.problem(path, *wrong_of(item)))
                problems += [
                    loaded.problem(path, "contradiction", f"{each.field} {each.text}")
                    for each in contradictions_in([item])
                    if not template.lost & {each.field, *each.presumed}
                ]


def _duplicates(plan: Plan, loaded: LoadedCatalogue) -> Iterator[Problem]:
    first: dict[str, tuple[StageRequest, Path]] = {}
    for request, path in plan.requests:
        other, before = first.setdefault(identity_of(request), (request, path))
        if other is request:
            continue
        line = loaded.lines.find(before)[1]
        where = f"line {line}" if line is not None else "another entry"
        both = "" if other.source == request.source else f" ({request.source} and {other.source})"
        yield loaded.problem(
            path, "duplicate", f"has the destination {request.destination}, as has {where}{both}"
        )


def _unused(loaded: LoadedCatalogue) -> Iterator[Problem]:
    """Environments in which nothing is staged: usually a name that is spelled differently in the entries."""
    if any(place[-1] == "env" or place[:-1] == ("staging",) for place in loaded.dropped):
        return  # what these are may be staged there
    catalogue = loaded.catalogue
    used = {env for entry in catalogue.staging for env in entry.env or catalogue.defaults.env}
    for name in catalogue.environments:
        if name not in used:
            yield loaded.problem(("environments", name), "unused", "is not the env of any entry")
