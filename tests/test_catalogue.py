"""A catalogue: every problem has its line, and what is right becomes the right requests."""

from __future__ import annotations

import json
import pickle
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riva_stream.catalogue import Catalogue, CatalogueError, LoadedCatalogue, load_catalogue
from riva_stream.catalogue.line_numbers import json_line_numbers, toml_line_numbers
from riva_stream.catalogue.model import catalogue_schema
from riva_stream.catalogue.plan import Plan, expand, jobs_of, matches, prepare
from riva_stream.config import StageRequest
from riva_stream.errors import AccessDeniedError, RivaStreamError
from riva_stream.events import Event, Warned
from riva_stream.preflight.source import list_archives
from tests.staging import Place, put_credentials
from tests.support.servers import MotoServer

DEFAULTS = """\
[defaults]
bucket = "deployments"
region = "us-east-2"
"""
ENTRY = """
[[staging]]
source = "s3://models/x.tar.gz"
env = "dev"
model_name = "x"
model_version = "v1"
"""


def problems_of(tmp_path: Path, text: str, name: str = "c.toml") -> list[tuple[int | None, str]]:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    assert caught.value.exit_code == 78
    return [(problem.line, problem.setting) for problem in caught.value.problems]


def codes_of(tmp_path: Path, text: str, name: str = "c.toml") -> list[str]:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    return [problem.code for problem in caught.value.problems]


def messages_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    return "\n".join(problem.wrong for problem in caught.value.problems)


async def plan_of(
    document: Mapping[str, Any], archives: Sequence[str] | RivaStreamError = (), **fallback: Any
) -> Plan:
    async def listed(request: StageRequest) -> Sequence[str]:
        if isinstance(archives, RivaStreamError):
            raise archives
        return archives

    loaded = LoadedCatalogue(Catalogue.model_validate(document))
    return await expand(loaded, prepare(loaded, fallback), listed)


def entry(**fields: Any) -> dict[str, Any]:
    whole = {"source": "s3://models/x.tar.gz", "bucket": "deployments", "env": "dev"}
    return whole | {"model_name": "x", "model_version": "v1"} | fields


def destinations(plan: Plan) -> list[str]:
    return [request.destination for request, _ in plan.requests]


# --- lines


ODD = '''\
# [comment]
title = "a # no comment [x]" # 'one'
[a."b.c"]
x.y = 1979-05-27T07:32:00Z
'q"' = [
  1, # first
  { k = "v", "l" = [true] },
]
text = """
[[list]]
k = "\\""" """""
[[list]]
n = 1
[[list]]
raw = \'\'\'
n = 2 \'\'\'\'
n = 3
[list.sub]
m = {}
[[list.inner]]
z = 1
quotes = ["""a"""", "b",
\'\'\'c\'\'\'\', \'d\',
"e"]
'''


def test_lines_of_a_toml_file_with_everything_in_it() -> None:
    tomllib.loads(ODD)
    known = toml_line_numbers(ODD).known
    expected = {
        ("title",): 2,
        ("a", "b.c"): 3,
        ("a", "b.c", "x", "y"): 4,
        ("a", "b.c", 'q"'): 5,
        ("a", "b.c", 'q"', 0): 6,
        ("a", "b.c", 'q"', 1, "k"): 7,
        ("a", "b.c", 'q"', 1, "l", 0): 7,
        ("a", "b.c", "text"): 9,
        ("list", 0): 12,
        ("list", 0, "n"): 13,
        ("list", 1, "raw"): 15,
        ("list", 1, "n"): 17,
        ("list", 1, "sub"): 18,
        ("list", 1, "sub", "m"): 19,
        ("list", 1, "inner", 0): 20,
        ("list", 1, "inner", 0, "z"): 21,
        ("list", 1, "inner", 0, "quotes", 1): 22,
        ("list", 1, "inner", 0, "quotes", 3): 23,
        ("list", 1, "inner", 0, "quotes", 4): 24,
    }
    assert {path: known.get(path) for path in expected} == expected
    assert ("list", 2) not in known


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(_VALUES)
def test_every_value_of_a_json_file_has_a_line(value: Any) -> None:
    text = json.dumps({"a": value}, indent=1, ensure_ascii=False)
    known = json_line_numbers(text).known
    lines = text.split("\n")

    def walk(path: tuple[str | int, ...], inner: Any) -> None:
        shown = json.dumps(path[-1], ensure_ascii=False) if isinstance(path[-1], str) else ""
        assert shown in lines[known[path] - 1]
        pairs = (
            inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        )
        for key, below in pairs:
            walk((*path, key), below)

    walk(("a",), value)


# --- what is wrong


def test_every_problem_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    text = (
        DEFAULTS
        + """
[environments.prod]
acl = "bucket-owner-read"

[[staging]]
source = "s3://models/x.tar.gz"
env = ["dev", "a/b"]
colour = "blue"
timeout = "5 parsecs"

[[staging]]
source = "s3://models/y.tar.gz"
env = "prod"
model_name = "y"

[[staging]]
source = "s3://models/z_v1.tar.gz"
env = "prod"
pattern = "{model}_{model_version}.tar.gz"

[[staging]]
env = "prod"

[[staging]]
source = "s3://models/x.tar.gz"
env = "prod"
model_name = "y"
model_version = "v1"
kms_key_id = "alias/k"
replicate_to = [
  "deployments",
]
"""
    )
    told = dict.fromkeys(zip(problems_of(tmp_path, text), codes_of(tmp_path, text), strict=True))
    assert list(told) == [
        ((8, "staging[0]"), "missing"),
        ((10, "staging[0].env[1]"), "malformed"),
        ((11, "staging[0].colour"), "unknown"),
        ((12, "staging[0].timeout"), "malformed"),
        ((14, "staging[1]"), "missing"),
        ((22, "staging[2].pattern"), "malformed"),
        ((24, "staging[3]"), "missing"),
        ((27, "staging[4]"), "contradiction"),
        ((34, "staging[4].replicate_to[0]"), "malformed"),
    ]


def test_what_is_wrong_with_one_value_hides_nothing_else(tmp_path: Path) -> None:
    text = (
        DEFAULTS
        + """colour = "blue"
[environments.prod]
bucket = "NO BUCKET"
[environments.live]
acl = 1
"""
        + ENTRY
        + "memroy = 1\n"
        + ENTRY
        + 'memory = "5 parsecs"\n'
        + ENTRY.replace('"x"', '"y"')
        + 'sse = "none"\nkms_key_id = "k"\n'
        + ENTRY.replace('"v1"', '["v1"]')
        + ENTRY.replace('"dev"', '"prod"') * 2
    )
    assert list(zip(problems_of(tmp_path, text), codes_of(tmp_path, text), strict=True)) == [
        ((4, "defaults.colour"), "unknown"),
        ((6, "environments.prod.bucket"), "malformed"),
        ((7, "environments.live"), "unused"),
        ((8, "environments.live.acl"), "malformed"),
        ((15, "staging[0].memroy"), "unknown"),
        ((17, "staging[1]"), "duplicate"),
        ((22, "staging[1].memory"), "malformed"),
        ((29, "staging[2].sse"), "malformed"),
        ((36, "staging[3].model_version"), "malformed"),
    ]


def test_a_memory_that_is_too_small_is_told_before_anything_starts(tmp_path: Path) -> None:
    text = DEFAULTS + 'memory = "1MiB"\n' + ENTRY + 'part_size = "16MiB"\n'
    assert codes_of(tmp_path, text) == ["contradiction"]
    assert "memory is too small for parts of 16.00 MiB" in messages_of(tmp_path, text)


def test_what_is_wrong_with_the_structure_is_told_first(tmp_path: Path) -> None:
    """Misspelt, a table is missing from every entry."""
    text = DEFAULTS.replace("[defaults]", "[default]") + ENTRY
    assert problems_of(tmp_path, text) == [(1, "default")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "line 1: the catalogue is missing staging"),
        ("[1]", "line 1: the catalogue is not a table"),
        ('{"staging": [[]]}', "line 1: staging[0] is not a table"),
        (json.dumps({"staging": [{"run_id": "x"}]}), "line 1: staging[0].run_id is not a known field"),
    ],
)
def test_a_problem_is_a_sentence_about_what_has_it(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(tmp_path / "c.json")
    assert told in map(str, caught.value.problems)


def test_what_does_not_fit_together_is_the_entrys(tmp_path: Path) -> None:
    text = DEFAULTS + ENTRY + 'kms_key_id = "alias/k"\n'
    assert problems_of(tmp_path, text) == [(5, "staging[0]")]
    assert codes_of(tmp_path, text) == ["contradiction"]


def test_a_catalogue_of_nothing_is_refused(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "staging = []\n") == [(1, "staging")]


def test_a_pattern_that_its_own_source_does_not_fit_is_a_contradiction(tmp_path: Path) -> None:
    text = DEFAULTS + ENTRY + 'pattern = "{model_name}.zip"\n'
    assert codes_of(tmp_path, text) == ["contradiction"]


def test_what_all_share_is_told_at_its_own_line(tmp_path: Path) -> None:
    assert problems_of(tmp_path, DEFAULTS + 'sse = "rot13"\n' + ENTRY) == [(4, "defaults.sse")]


@pytest.mark.parametrize(
    ("text", "name", "line"),
    [
        (DEFAULTS + "bucket = 1\n" + ENTRY, "c.toml", 4),
        (DEFAULTS + "x = \n", "c.toml", 4),
        ('{"staging": [\n{"source": }]}', "c.json", 2),
    ],
)
def test_a_file_that_is_no_toml_or_json_says_where(tmp_path: Path, text: str, name: str, line: int) -> None:
    assert problems_of(tmp_path, text, name) == [(line, "")]
    assert codes_of(tmp_path, text, name) == ["syntax"]


def test_json_is_taken_and_has_lines_too(tmp_path: Path) -> None:
    document = {"staging": [entry(), entry(env="prod", bucket="B")]}
    text = json.dumps(document, indent=1)
    line = text.split("\n").index('   "bucket": "B",') + 1
    assert problems_of(tmp_path, text, "c.json") == [(line, "staging[1].bucket")]


def test_two_entries_with_one_destination_are_refused(tmp_path: Path) -> None:
    text = DEFAULTS + ENTRY + ENTRY.replace("models/x", "models/other")
    assert problems_of(tmp_path, text) == [(11, "staging[1]")]
    assert codes_of(tmp_path, text) == ["duplicate"]


def test_a_replica_where_another_entry_is_staged_is_refused(tmp_path: Path) -> None:
    text = (
        DEFAULTS
        + ENTRY
        + ENTRY.replace('"dev"', '"prod"')
        + 'replicate_to = [\n"s3://deployments/dev/x/v1"]\n'
    )
    assert problems_of(tmp_path, text) == [(17, "staging[1].replicate_to[0]")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://store.example", "https://STORE.example"),
        ("https://store.example", "https://store.example:443/"),
        ("http://[::1]", "http://[::1]:80"),
        ("https://s3.us-east-2.amazonaws.com", "https://s3.dualstack.us-east-2.amazonaws.com"),
        ("https://s3.us-east-2.amazonaws.com", None),
    ],
)
def test_one_store_in_two_spellings_is_one_place(one: str, other: str | None, tmp_path: Path) -> None:
    text = DEFAULTS + ENTRY + f'endpoint_url = "{one}"\n' + ENTRY.replace("models/x", "models/other")
    text += f'endpoint_url = "{other}"\n' if other is not None else ""
    assert codes_of(tmp_path, text) == ["duplicate"]


@pytest.mark.parametrize(
    "other",
    [
        "https://store.example:444",
        "http://store.example",
        "https://store.example/B",
        "https://a.amazonaws.com",
    ],
)
def test_another_store_is_another_place(other: str, tmp_path: Path) -> None:
    text = (
        DEFAULTS + ENTRY + 'endpoint_url = "https://store.example"\n' + ENTRY.replace("models/x", "models/y")
    )
    path = tmp_path / "c.toml"
    path.write_text(text + f'endpoint_url = "{other}"\n' + ENTRY)
    load_catalogue(path)


def test_an_environment_in_which_nothing_is_staged_is_refused(tmp_path: Path) -> None:
    text = DEFAULTS + '[environments.prodd]\nbucket = "other"\n' + ENTRY.replace("dev", "prod")
    assert problems_of(tmp_path, text) == [(4, "environments.prodd")]
    assert codes_of(tmp_path, text) == ["unused"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("retention_days = true", "retention_days"),
        ("connections = true", "connections"),
        ("memory = true", "memory"),
        ("checkpoint = true", "checkpoint"),
        ("timeout = false", "timeout"),
        ("timeout = inf", "timeout"),
        (f'deadline = "{"9" * 400}h"', "deadline"),
        ("deadline = 99999999999999999999999", "deadline"),
        ("timeout = 99999999999999999999999.5", "timeout"),
        ('retries = "8"', "retries"),
        ('max_ratio = "9"', "max_ratio"),
        ('force = "yes"', "force"),
        ("force = 1", "force"),
        ('no_sign_request = "true"', "no_sign_request"),
        ("replicate_to = [{ bucket = true }]", "replicate_to[0].bucket"),
        (f'memory = "{"9" * 400}TiB"', "memory"),
    ],
)
def test_a_value_of_another_kind_is_refused_as_the_schema_has_it(
    words: str, name: str, tmp_path: Path
) -> None:
    text = DEFAULTS + ENTRY + words + "\n"
    assert problems_of(tmp_path, text) == [(10, f"staging[0].{name}")]
    assert codes_of(tmp_path, text) == ["malformed"]
    assert "99" not in messages_of(tmp_path, text)
    if not any(word in words for word in ("99", "inf")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(text), catalogue_schema())


def test_words_that_no_argument_can_hold_are_refused_with_their_line(tmp_path: Path) -> None:
    for words in ('description = "a\\u0000b"', 'include = ["*.riva", "\\u0000"]', 'profile = "\\u0000"'):
        assert problems_of(tmp_path, DEFAULTS + ENTRY + words + "\n")[0][0] == 10


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[[staging]]\nretries = " + "1" * 5000, "c.toml"),
        ('{"staging": [\n{"retries": ' + "1" * 5000 + "}]}", "c.json"),
        ("[x]\na = " + "[" * 3000 + "]" * 3000, "c.toml"),
        ("\n" + "[" * 100_000, "c.json"),
        ('{"staging":\n' + "[" * 900 + "]" * 900 + "}", "c.json"),
    ],
    ids=["a long number", "a long number in JSON", "deep", "deep JSON", "just deep enough for JSON"],
)
def test_a_file_that_no_parser_takes_is_a_wrong_catalogue(text: str, name: str, tmp_path: Path) -> None:
    assert [line for line, _ in problems_of(tmp_path, text, name)] == [2]


def test_a_number_that_nobody_can_write_is_a_wrong_value(tmp_path: Path) -> None:
    text = DEFAULTS + ENTRY + "max_expanded = 0x" + "f" * 5000 + "\n"
    assert problems_of(tmp_path, text) == [(10, "staging[0].max_expanded")]


def test_a_field_that_a_json_catalogue_has_twice_is_refused(tmp_path: Path) -> None:
    """TOML forbids it; of JSON the last one counts, and all that the first one has would be dropped in silence."""
    first, second = (json.dumps([entry(source=f"s3://models/{name}.tar.gz")]) for name in "ab")
    text = f'{{"staging": {first},\n"st\\u0061ging": {second}}}'
    assert problems_of(tmp_path, text, "c.json") == [(2, "staging")]
    assert codes_of(tmp_path, text, "c.json") == ["syntax"]
    text = '{"staging": [' + json.dumps(entry())[:-1] + ',\n"env": "prod"}]}'
    assert problems_of(tmp_path, text, "c.json") == [(2, "staging[0].env")]


@pytest.mark.parametrize("key", ['"\\U00000065nv"', '"\\u0065nv"', "'env'", '"env"'])
def test_a_key_may_be_written_as_toml_allows(key: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(DEFAULTS + ENTRY.replace("env", key))
    assert load_catalogue(path).catalogue.staging[0].env == ("dev",)


def test_a_catalogue_that_is_not_there_is_exit_78(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(tmp_path / "none.toml")
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("kind", ["none", "folder", "encoding"])
def test_a_catalogue_that_cannot_be_read_is_told_what_to_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "encoding":
        path.write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="cannot be read") as caught:
        load_catalogue(path)
    assert caught.value.hint == "name a TOML or JSON file in UTF-8"


def test_the_error_survives_pickling(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(DEFAULTS)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems != ()


# --- what it means


async def test_an_entry_outranks_its_environment_which_outranks_the_defaults() -> None:
    plan = await plan_of(
        {
            "defaults": {"bucket": "defaults", "region": "r-1", "memory": "300MiB", "env": ["dev", "prod"]},
            "environments": {"prod": {"bucket": "production", "region": "r-2"}},
            "staging": [
                {"source": "s3://models/x.tar.gz", "model_name": "x", "model_version": "v1"},
                {"source": "s3://models/x.tar.gz", "model_name": "y", "model_version": "v1", "bucket": "own"},
            ],
        },
        region="fallback",
        endpoint_url="http://localhost:1",
    )
    assert destinations(plan) == [
        "s3://defaults/dev/x/v1/",
        "s3://production/prod/x/v1/",
        "s3://own/dev/y/v1/",
        "s3://own/prod/y/v1/",
    ]
    assert [request.region for request, _ in plan.requests] == ["r-1", "r-2", "r-1", "r-2"]
    assert {request.memory for request, _ in plan.requests} == {300 << 20}
    assert {request.endpoint_url for request, _ in plan.requests} == {"http://localhost:1"}
    assert all(request.wait for request, _ in plan.requests)


async def test_sizes_and_durations_have_units() -> None:
    plan = await plan_of({"staging": [entry(timeout="5m", deadline="1h30m", lease=7, memory="256M")]})
    request = plan.requests[0][0]
    assert (request.timeout, request.deadline, request.lease) == (300, 5400, 7)
    assert request.memory == 256 << 20  # as the flag has it


@pytest.mark.parametrize(
    ("written", "size"), [("off", 0), (0, 0), ("auto", 256 << 20), ("8MiB", 8 << 20), (1 << 20, 1 << 20)]
)
async def test_checkpoints_are_written_as_the_flag_has_them(written: str | int, size: int) -> None:
    plan = await plan_of({"staging": [entry(checkpoint=written)]})
    assert plan.requests[0][0].checkpoint == size


def test_an_interval_of_checkpoints_that_the_flag_would_refuse_is_refused_here_too(tmp_path: Path) -> None:
    assert problems_of(tmp_path, DEFAULTS + ENTRY + 'checkpoint = "1KiB"\n') == [
        (10, "staging[0].checkpoint")
    ]


async def test_a_pattern_makes_a_request_of_each_archive() -> None:
    many = entry(source="s3://models/riva/", pattern="{model_name}-deployable_{model_version}.tar.gz")
    del many["model_name"], many["model_version"]
    keys = ["riva/a-b-deployable_v8.1.tar.gz", "riva/deep/c-deployable_v2.tar.gz", "riva/notes.tar"]
    plan = await plan_of({"staging": [many]}, keys)
    assert destinations(plan) == ["s3://deployments/dev/a-b/v8.1/", "s3://deployments/dev/c/v2/"]
    assert [request.source for request, _ in plan.requests] == [f"s3://models/{key}" for key in keys[:2]]
    assert list(plan.passed_over) == ["s3://models/riva/notes.tar"]


async def test_what_a_staging_has_put_beside_its_models_is_no_archive_of_the_catalogue() -> None:
    """The same catalogue again is the resume, also where its source reaches into its own destination."""
    many = entry(source="s3://deployments/*", pattern="{model_name}-deployable_{model_version}.tar.gz")
    del many["model_name"], many["model_version"]
    archive = "x-deployable_v1.tar.gz"
    staged = f"dev/x/v1/source/{archive}"
    plan = await plan_of({"staging": [many]}, [f"in/{archive}", staged], region="us-east-2")
    assert [request.source for request, _ in plan.requests] == [f"s3://deployments/in/{archive}"]
    assert (plan.failed, list(plan.passed_over)) == ([], [])
    [failed] = (await plan_of({"staging": [many]}, [staged], region="us-east-2")).failed
    assert failed.error.exit_code == 66


async def test_an_archive_that_somebody_has_put_inside_its_own_place_is_told() -> None:
    many = entry(source="s3://deployments/*", pattern="{model_name}-deployable_{model_version}.tar.gz")
    del many["model_name"], many["model_version"]
    with pytest.raises(CatalogueError):
        await plan_of({"staging": [many]}, ["dev/x/v1/x-deployable_v1.tar.gz"], region="us-east-2")


async def test_a_pattern_tells_of_folders_and_passes_over_text() -> None:
    one = entry(source="s3://models/v3/parakeet-x86.tar.gz", pattern="{model_version}/{model_name}-*.tar.gz")
    assert destinations(await plan_of({"staging": [one]})) == ["s3://deployments/dev/parakeet/v3/"]


async def test_archives_that_would_be_the_same_staging_are_refused_before_anything_starts() -> None:
    many = entry(source="s3://models/*", pattern="{model_name}.tar.gz")
    with pytest.raises(CatalogueError) as caught:
        await plan_of({"staging": [many]}, ["a/x.tar.gz", "b/x.tar.gz"])
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("archives", "code"),
    [([], 66), (["notes.tar"], 66), (AccessDeniedError("may not be listed"), 77)],
)
async def test_an_entry_without_archives_fails_alone(archives: Any, code: int) -> None:
    many = entry(source="s3://models/*", pattern="{model_name}.tar.gz", env="prod")
    plan = await plan_of({"staging": [many, entry()]}, archives)
    assert destinations(plan) == ["s3://deployments/dev/x/v1/"]
    assert [(each.request.source, each.error.exit_code) for each in plan.failed] == [("s3://models/*", code)]


@pytest.mark.parametrize(
    ("pattern", "may"),
    [
        (None, True),
        ("prod/*", True),
        ("*/canary/v1", True),
        ("prod/c[ab]nary?1b/v?", True),
        ("s3://in-europe/prod/*", True),
        ("s3://deployments/prod/canary/v1/", True),
        ("dev/*", False),
        ("prod/*/v2", False),
        ("s3://in-asia/*", False),
    ],
)
async def test_only_may_mean_archives_that_nobody_could_list(pattern: str | None, may: bool) -> None:
    many = entry(source="s3://models/*", pattern="{model_name}.tar.gz", env="prod")
    many["replicate_to"] = ["s3://in-europe"]
    plan = await plan_of({"staging": [many]}, AccessDeniedError("may not be listed"))
    assert plan.failed[0].may_match(pattern) is may


async def test_replicas_are_places_of_the_same_source() -> None:
    elsewhere = {"bucket": "in-asia", "region": "ap-south-1", "sse": "aws:kms", "kms_key_id": "k"}
    plan = await plan_of(
        {
            "staging": [
                entry(region="us-1", replicate_to=["s3://in-europe", "s3://bucket/e/n/v/", elsewhere]),
                entry(source="s3://models/other.tar.gz", model_name="other", region="us-1"),
            ]
        }
    )
    requests = [request for request, _ in plan.requests]
    assert [request.destination for request in requests[:4]] == [
        "s3://deployments/dev/x/v1/",
        "s3://in-europe/dev/x/v1/",
        "s3://bucket/e/n/v/",
        "s3://in-asia/dev/x/v1/",
    ]
    # the source stays where it is, though the place is in another region
    assert (requests[3].region, requests[3].source_region, requests[3].sse) == (
        "ap-south-1",
        "us-1",
        "aws:kms",
    )
    jobs = jobs_of(requests)
    assert [len(job) for job in jobs] == [4, 1]


async def test_entries_that_differ_only_in_place_share_a_job() -> None:
    plan = await plan_of(
        {
            "staging": [
                entry(),
                entry(env="prod", bucket="production"),
                entry(env="test", include=["*.onnx"]),
                entry(env="old", endpoint_url="http://localhost:1"),
            ]
        }
    )
    jobs = jobs_of([request for request, _ in plan.requests])
    assert [[request.env for request in job] for job in jobs] == [["dev", "prod"], ["test"], ["old"]]


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        (None, True),
        ("dev/*", True),
        ("*/x/v1", True),
        ("s3://deployments/dev/x/v1/", True),
        ("s3://deployments/*", True),
        ("prod/*", False),
        ("x", False),
    ],
)
def test_only_means_the_path_or_the_uri(pattern: str | None, fits: bool) -> None:
    assert matches(StageRequest(**entry()), pattern) is fits


def test_the_schema_takes_what_the_model_takes() -> None:
    document = {
        "defaults": {"env": "dev", "memory": "300MiB", "lease": 3, "timeout": "5m"},
        "environments": {"dev": {"bucket": "b-1"}},
        "staging": [entry(replicate_to=["s3://b-2", {"bucket": "b-3"}], env=["dev"], pattern="*")],
    }
    schema = catalogue_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    Catalogue.model_validate(document)
    wrongs: list[dict[str, Any]] = [{}, {"staging": []}]
    wrongs += [{"staging": [entry(colour="blue")]}, {"staging": [entry(env=3)]}]
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


async def test_archives_are_listed_by_prefix_and_glob(
    moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_credentials(moto, monkeypatch)
    place = Place(moto, moto_bucket)
    for key in ("m/a.tar.gz", "m/b.tgz", "m/notes.txt", "n/a.tar.gz"):
        place.put(key, b"x")
    found = await list_archives(place.request(source=f"s3://{moto_bucket}/m/", env="dev"))
    assert found == ["m/a.tar.gz", "m/b.tgz"]
    found = await list_archives(place.request(source=f"s3://{moto_bucket}/*/a*", env="dev"))
    assert found == ["m/a.tar.gz", "n/a.tar.gz"]
    # what macOS leaves beside an archive is told by its first bytes, not by its name alone
    place.put("m/._a.tar.gz", bytes.fromhex("00051607 00020000") + bytes(100))
    place.put("m/._b.tar.gz", b"x")
    events: list[Event] = []
    request = place.request(source=f"s3://{moto_bucket}/m/", env="dev")
    assert await list_archives(request, observer=events.append) == ["m/._b.tar.gz", "m/a.tar.gz", "m/b.tgz"]
    assert [event.code for event in events if isinstance(event, Warned)] == ["leftovers"]
