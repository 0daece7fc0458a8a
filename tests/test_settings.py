"""Flags over the process environment over `.env`, and everything wrong said at once."""

from __future__ import annotations

import os
import pickle
import select
import threading
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from riva_stream.cli.options import state_dir_of
from riva_stream.cli.settings.env_file import read_env_file
from riva_stream.cli.settings.load import load, load_endpoint
from riva_stream.cli.settings.model import SWITCH, Settings
from riva_stream.cli.settings.problems import SettingsError
from riva_stream.config import PromoteRequest, StageRequest
from riva_stream.errors import ConfigurationError

FLAGS = {
    "source": "s3://models/p.tar.gz",
    "bucket": "staging-bucket",
    "env": "prod",
    "model_name": "parakeet",
    "model_version": "v1",
    "region": "us-east-2",
}
WITH_VARIABLE = [name for name in Settings.model_fields if Settings.variables(name)]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def problems(flags: Mapping[str, object]) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        load(flags)
    assert caught.value.exit_code == 78
    return {problem.setting: str(problem) for problem in caught.value.problems}


def test_flags_win_over_the_environment_which_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(
        "MODEL_VERSION=file\nRIVA_ASR_MODEL_NAME=file\nNVIDIA_DRIVERS_S3_BUCKET=file-bucket\n"
    )
    monkeypatch.setenv("MODEL_VERSION", "environment")
    monkeypatch.setenv("RIVA_ASR_MODEL_NAME", "environment")
    rest = {name: FLAGS[name] for name in ("source", "env", "region")}
    request = load({**rest, "model_version": "flag"}).request
    assert (request.model_version, request.model_name, request.bucket) == (
        "flag",
        "environment",
        "file-bucket",
    )


def test_an_alias_in_the_environment_wins_over_the_usual_name_in_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text("AWS_REGION=file\n")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "environment")
    assert load({**FLAGS, "region": None}).request.region == "environment"
    monkeypatch.setenv("AWS_REGION", "usual")
    assert load({**FLAGS, "region": None}).request.region == "usual"


def test_the_narrower_endpoint_wins_as_it_does_in_the_aws_sdks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://all:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://s3:1")
    assert load(FLAGS).request.endpoint_url == "http://s3:1"


def test_every_variable_reaches_its_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    values = {
        "RIVA_ASR_MODEL_S3_URI": "s3://models/p.tar.gz",
        "NVIDIA_DRIVERS_S3_BUCKET": "staging-bucket",
        "RIVA_ASR_MODEL_NAME": "name",
        "RIVA_ASR_LANG_CODE": "de-DE",
        "MODEL_VERSION": "v2",
        "ENV": "dev",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": "http://localhost:9000",
        "AWS_PROFILE": "work",
        "RIVA_STREAM_ADDRESSING": "virtual",
        "AWS_CA_BUNDLE": str(bundle),
        "RIVA_SOURCE_REGION": "eu-west-2",
        "RIVA_SOURCE_ENDPOINT_URL": "http://localhost:9001",
        "RIVA_SOURCE_PROFILE": "models",
        "RIVA_ASR_MODEL_SHA256": "AB" * 32,
        "RIVA_ASR_MODEL_ARCHITECTURE": "tdt",
        "RIVA_SERVER_PATH": "riva-speech.tar.gz",
        "ARTIFACT_RETENTION_DAYS": "30",
        "RIVA_STATE_DIR": "elsewhere",
        "REFERENCE_ONLY": "false",
        "BINTARBALL_REFERENCE": "true",
        "FORCE_DOWNLOAD": "true",
        "DRY_RUN": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    values["CHECKSUM_VALIDATION"] = "true"  # what --no-checksum is then
    monkeypatch.setenv("CHECKSUM_VALIDATION", "false")
    request = load({}).request
    found = {name: getattr(request, name) for name in WITH_VARIABLE}
    assert sorted(str(value).upper() for value in found.values()) == sorted(
        v.upper() for v in values.values()
    )
    assert request.language == "de-DE"
    assert request.ca_bundle == bundle
    assert request.expect_sha256 == "ab" * 32


def test_the_file_may_be_written_as_for_a_shell() -> None:
    Path(".env").write_bytes(
        b"\xef\xbb\xbf# a comment\r\n"
        b"export MODEL_VERSION='v 1'   # not part of it\r\n"
        b'RIVA_ASR_MODEL_NAME="parakeet"\r\n'
        b"\r\n"
        b"   ENV = prod\r\n"
        b"RIVA_ASR_MODEL_ARCHITECTURE=rnnt # said twice\r\n"
        b"OTHER=anything\r\n"
    )
    flags = {name: FLAGS[name] for name in ("source", "bucket", "region")}
    assert set(problems(flags)) == {"model_version"}  # the blank is in it, so the quotes were understood
    request = load({**flags, "model_version": "v1"}).request
    assert (request.model_name, request.env, request.architecture) == ("parakeet", "prod", "rnnt")


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    Path(".env").write_text("MODEL_VERSION=v1\nthis is no setting\n")
    (warning,) = load(FLAGS).warnings
    assert warning.code == "env-file-line"
    assert "line 2" in warning.message


def test_empty_values_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("MODEL_VERSION=file\nAWS_PROFILE=\n")
    for name in ("MODEL_VERSION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "RIVA_ASR_MODEL_SHA256"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RIVA_ASR_MODEL_ARCHITECTURE", "  ")
    request = load({**FLAGS, "model_version": "", "source_profile": "", "include": ()}).request
    assert request.model_version == "file"
    assert (request.profile, request.endpoint_url, request.expect_sha256) == (None, None, None)
    assert request.architecture is None
    assert request.include == ("*.riva",)


def test_blanks_around_a_value_count_where_it_was_given_by_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_ASR_MODEL_ARCHITECTURE", " rnnt ")
    request = load({**FLAGS, "source": "s3://models/tail .tar.gz ", "description": " as typed "}).request
    assert (request.source_key, request.description) == ("tail .tar.gz ", " as typed ")
    assert request.architecture == "rnnt"
    assert set(problems({**FLAGS, "bucket": " staging-bucket"})) == {"bucket"}


@pytest.mark.parametrize("memory", [0, 1, 143 << 20])
def test_the_least_memory_that_works_is_told_the_first_time(memory: int) -> None:
    assert "the minimum is 144.00 MiB" in problems({**FLAGS, "memory": memory})["memory"]


@pytest.mark.parametrize("path", ["none.pem", "."])
def test_a_bundle_of_certificates_has_to_be_a_file(path: str) -> None:
    assert "names no file" in problems({**FLAGS, "ca_bundle": path})["ca_bundle"]


def test_all_that_is_missing_is_said_at_once_with_flag_variable_and_example() -> None:
    found = problems({})
    assert set(found) == {"source", "bucket", "env", "model_name", "model_version", "region"}
    assert "--source or RIVA_ASR_MODEL_S3_URI is not set" in found["source"]
    assert "for example: --source s3://" in found["source"]
    assert "--region or AWS_REGION" in found["region"]


def test_missing_and_malformed_are_said_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_DRIVERS_S3_BUCKET", "s3://Bucket/path")
    Path(".env").write_text("ENV=../prod\n")
    found = problems(
        {
            "language": "!",
            "part_size": 1024,
            "retention_days": 0,
            "timeout": 0.0,
            "kms_key_id": "k",
            "expected_bucket_owner": "12",
            "ca_bundle": Path("nowhere.pem"),
            "source_region": "us east",
            "run_id": "a/b",
            "expect_sha256": "abc",
        }
    )
    assert set(found) == {
        *("source", "bucket", "env", "model_name", "model_version", "region", "language", "part_size"),
        *("retention_days", "timeout", "kms_key_id", "expected_bucket_owner", "ca_bundle", "source_region"),
        *("run_id", "expect_sha256"),
    }
    assert "found in the environment" in found["bucket"]
    assert "found in .env" in found["env"]
    assert "at least 5.00 MiB" in found["part_size"]
    assert all("for example: --" in text for text in found.values())


def test_each_problem_has_a_code() -> None:
    flags = {**FLAGS, "bucket": None, "retention_days": 0, "kms_key_id": "k", "memory": 64 << 20}
    with pytest.raises(SettingsError) as caught:
        load({**flags, "mode": "bintarball_reference"})
    assert {problem.setting: problem.code for problem in caught.value.problems} == {
        "bucket": "missing",
        "retention_days": "malformed",
        "kms_key_id": "contradiction",
        "server_path": "contradiction",
        "memory": "contradiction",
    }


def test_a_contradiction_is_told_once_what_it_presumes_is_right() -> None:
    inside = {**FLAGS, "source": "s3://staging-bucket/prod/parakeet/v1/source/p.tar.gz"}
    assert problems({**inside, "env": "a/b"}).keys() == {"env"}
    assert problems({**FLAGS, "kms_key_id": "k", "sse": "none"}).keys() == {"sse"}


def test_values_are_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    for name in WITH_VARIABLE:
        for variable in (*Settings.variables(name), *Settings.aliases(name)):
            monkeypatch.setenv(variable, secret)
    found = problems({})
    assert len(found) > 8
    assert secret not in "".join(found.values())


BYTES = "QQ\udcff"


@pytest.mark.parametrize(
    "name",
    [
        "source",
        "env",
        "description",
        "include",
        "kms_key_id",
        "profile",
        "architecture",
        "state_dir",
        "endpoint_url",
    ],
)
def test_a_flag_that_is_not_utf_8_is_told_and_not_repeated(name: str) -> None:
    value: Any = (BYTES,) if name == "include" else f"s3://b/{BYTES}" if name == "source" else BYTES
    found = problems({**FLAGS, "sse": "aws:kms", name: value})
    assert found.keys() == {name}
    assert "is not UTF-8" in found[name]
    assert "QQ" not in found[name]
    with pytest.raises(ValidationError, match="is not UTF-8"):
        StageRequest.model_validate({**FLAGS, name: value})


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("ENV", "env"),
        ("RIVA_MODEL", "model_name"),
        ("RIVA_ASR_MODEL_ARCHITECTURE", "architecture"),
        ("AWS_PROFILE", "profile"),
        ("RIVA_STREAM_ADDRESSING", "addressing"),
        ("DRY_RUN", "dry_run"),
        ("AWS_REGION", "region"),
    ],
)
def test_a_variable_that_is_not_utf_8_is_told_and_not_repeated(
    variable: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, BYTES)
    with pytest.raises(SettingsError) as caught:
        load({**FLAGS, setting: None})
    assert [problem.setting for problem in caught.value.problems] == [setting]
    assert caught.value.problems[0].variable == variable
    assert "QQ" not in "".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    "variable", ["AWS_REGION", "AWS_PROFILE", "NVIDIA_DRIVERS_S3_BUCKET", "AWS_ENDPOINT_URL"]
)
def test_commands_that_look_tell_it_too(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-2")
    monkeypatch.setenv(variable, BYTES)
    with pytest.raises(ConfigurationError) as caught:
        load_endpoint({})
    assert "QQ" not in str(caught.value)


def test_a_source_inside_its_own_destination_is_refused() -> None:
    found = problems({**FLAGS, "source": "s3://staging-bucket/prod/parakeet/v1/source/p.tar.gz"})
    assert "inside the destination" in found["source"]


def test_too_little_memory_names_the_minimum() -> None:
    assert "the minimum is" in problems({**FLAGS, "memory": 64 << 20})["memory"]


def test_a_region_may_be_missing_with_an_endpoint() -> None:
    request = load({**FLAGS, "region": None, "endpoint_url": "http://localhost:9000"}).request
    assert request.region is None


CONFIG = """[default]
region = eu-west-1
[profile work]
region=eu-west-2
[profile "two words"]
region = eu-west-3
[profile bare]
output = json
[profile both]
region = us-west-1
"""


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "credentials").write_text("[both]\nregion = us-west-2\n[keys]\nregion = ap-south-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize(
    ("flags", "variables", "region"),
    [
        ({}, {}, "eu-west-1"),
        ({"profile": "work"}, {}, "eu-west-2"),
        ({}, {"AWS_PROFILE": "two words"}, "eu-west-3"),
        ({}, {"AWS_PROFILE": "keys"}, "ap-south-1"),
        ({}, {"AWS_PROFILE": "both"}, "us-west-2"),
        ({}, {"AWS_PROFILE": "work", "AWS_ACCESS_KEY_ID": "AKID"}, "eu-west-2"),
        ({}, {"AWS_PROFILE": "nobody"}, "eu-west-1"),
        ({"profile": "work"}, {"AWS_REGION": "us-east-1"}, "us-east-1"),
        ({"profile": "work", "endpoint_url": "http://localhost:9000"}, {}, "eu-west-2"),
        ({"profile": "work", "region": "us-east-2"}, {}, "us-east-2"),
    ],
)
def test_a_region_that_only_the_profile_has_is_used(
    flags: dict[str, str],
    variables: dict[str, str],
    region: str,
    configuration: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load({**FLAGS, "region": None, **flags}).request.region == region
    assert load_endpoint(flags).region == region


def test_a_profile_without_a_region_has_none(configuration: None) -> None:
    assert problems({**FLAGS, "region": None, "profile": "bare"}).keys() == {"region"}
    with pytest.raises(ConfigurationError):
        load_endpoint({"profile": "bare"})


def test_the_region_of_the_sources_profile_is_the_sources(configuration: None) -> None:
    assert load({**FLAGS, "source_profile": "work"}).request.source_region == "eu-west-2"
    assert load({**FLAGS, "source_profile": "work", "source_region": "x"}).request.source_region == "x"
    assert load(FLAGS).request.source_region is None
    assert load_endpoint({"region": "us-east-2", "source_profile": "work"}).source_region == "eu-west-2"
    assert load_endpoint({"region": "us-east-2"}).source_region is None


def test_the_file_of_settings_may_name_the_configuration(
    configuration: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_CONFIG_FILE")
    Path(".env").write_text(f"AWS_CONFIG_FILE={tmp_path}/config\nAWS_PROFILE=work\n")
    assert load({**FLAGS, "region": None}).request.region == "eu-west-2"


def test_an_unusual_environment_is_a_warning() -> None:
    assert load(FLAGS).warnings == ()
    (warning,) = load({**FLAGS, "env": "qa"}).warnings
    assert warning.code == "unusual-env"


def test_every_field_that_can_be_wrong_has_an_example() -> None:
    fields = StageRequest.model_fields | PromoteRequest.model_fields
    switches = {name for name, info in fields.items() if info.annotation is bool}
    assert set(Settings.model_fields) == set(fields)
    assert {name for name in Settings.model_fields if Settings.example(name) == SWITCH} == switches


def test_the_list_of_problems_survives_pickling() -> None:
    with pytest.raises(SettingsError) as caught:
        load({})
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_a_file_that_was_asked_for_has_to_be_readable(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "my.env"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"A=\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"my\.env cannot be read") as caught:
        load(FLAGS, env_file=path)
    assert "--env-file" in caught.value.hint


def test_the_file_may_be_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    flags = {**FLAGS, "model_version": None}
    writer = threading.Thread(target=path.write_text, args=("MODEL_VERSION=piped\nAWS_SESSION_TOKEN=t\n",))
    writer.start()
    loaded = load(flags, env_file=path)
    writer.join()
    assert loaded.request.model_version == "piped"
    assert loaded.environment == {"AWS_SESSION_TOKEN": "t"}


@pytest.mark.parametrize("late", [False, True])
def test_the_file_that_nobody_named_may_be_a_pipe_too(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(".env")
    writing = threading.Event()
    looked = select.select

    def look(*args: Any) -> Any:
        writing.set()  # it has found a writer who has nothing to say
        return looked(*args)

    monkeypatch.setattr(select, "select", look)

    def write() -> None:
        with Path(".env").open("w") as pipe:
            pipe.write("MODEL_VERSION=")
            pipe.flush()
            if late:
                writing.wait(20)
            pipe.write("piped\n")

    writer = threading.Thread(target=write)
    writer.start()
    loaded = load({**FLAGS, "model_version": None})
    writer.join()
    assert loaded.request.model_version == "piped"


@pytest.mark.parametrize("text", ["MODEL_VERSION=piped\n", ""])
def test_the_file_may_be_of_a_process_substitution(text: str) -> None:
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    try:
        file = read_env_file(Path(f"/dev/fd/{reader}"))
    finally:
        os.close(reader)
    assert dict(file.values) == ({"MODEL_VERSION": "piped"} if text else {})


def test_a_pipe_that_nobody_writes_into_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riva_stream.cli.settings.env_file._PIPE_SECONDS", 0.2)
    os.mkfifo(".env")
    with pytest.raises(ConfigurationError):
        load(FLAGS)


def test_a_folder_that_nobody_named_is_told_and_stops_no_run() -> None:
    Path(".env").mkdir()
    assert [warning.code for warning in load(FLAGS).warnings] == ["env-file-folder"]


def test_a_link_to_nowhere_is_told() -> None:
    Path(".env").symlink_to("nowhere")
    with pytest.raises(ConfigurationError):
        load(FLAGS)


@pytest.mark.parametrize("text", ["MODEL_VERSION v1\n", "MODEL_VERSION\n", "MODEL_VERSION: v1\n", None])
def test_what_was_ignored_is_told_with_what_is_missing(text: str | None) -> None:
    if text is None:
        Path(".env").mkdir()
    else:
        Path(".env").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load({**FLAGS, "model_version": None})
    assert len(caught.value.ignored) == 1
    assert pickle.loads(pickle.dumps(caught.value)).ignored == caught.value.ignored
    with pytest.raises(ConfigurationError) as missing:
        load_endpoint({})
    assert missing.value.ignored == caught.value.ignored
    assert [warning.message for warning in load_endpoint({"region": "x"}).warnings] == list(
        caught.value.ignored
    )


def test_a_name_that_is_exported_is_no_slip() -> None:
    Path(".env").write_text("export MODEL_VERSION=v1\nexport MODEL_VERSION\n")
    assert load({**FLAGS, "model_version": None}).warnings == ()


def test_only_the_named_file_is_read(tmp_path: Path) -> None:
    Path(".env").write_text("MODEL_VERSION=default\nRIVA_ASR_MODEL_ARCHITECTURE=ctc\n")
    named = tmp_path / "named.env"
    named.write_text("MODEL_VERSION=named\n")
    request = load({**FLAGS, "model_version": None}, env_file=named).request
    assert (request.model_version, request.architecture) == ("named", None)


SELECTED = "parakeet-rnnt-riva-1-1b-en-us-deployable_v8.1.tar.gz"


def without(*names: str) -> dict[str, object]:
    return {name: value for name, value in FLAGS.items() if name not in names}


class TestAliases:
    """What later versions of the pipeline call the same settings."""

    def test_a_pipeline_of_aliases_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = {
            "RIVA_MODEL_PATH": f"s3://models/bintarball/riva-models/{SELECTED}",
            "RIVA_MODELS_S3_BUCKET": "one-bucket",
            "RIVA_MODEL_SELECTED": SELECTED,
            "RIVA_LANGUAGE_CODE": "es-US",
            "ENV_VERSION": "prod",
            "AWS_REGION": "us-east-2",
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        request = load({}).request
        assert request.source == values["RIVA_MODEL_PATH"]
        assert (request.bucket, request.env, request.language) == ("one-bucket", "prod", "es-US")
        assert request.model_name == SELECTED.removesuffix(".tar.gz")
        assert request.model_version == "v8.1"

    @pytest.mark.parametrize(
        ("older", "newer", "field"),
        [
            ("RIVA_ASR_MODEL_S3_URI", "RIVA_ASR_MODEL_SOURCE_URI", "source"),
            ("RIVA_ASR_MODEL_S3_URI", "RIVA_MODEL_PATH", "source"),
            ("RIVA_ASR_MODEL_SOURCE_URI", "RIVA_MODEL_PATH", "source"),
            ("NVIDIA_DRIVERS_S3_BUCKET", "RIVA_MODELS_S3_BUCKET", "bucket"),
            ("RIVA_ASR_MODEL_NAME", "RIVA_MODEL", "model_name"),
            ("RIVA_ASR_MODEL_NAME", "RIVA_MODEL_SELECTED", "model_name"),
            ("MODEL_VERSION", "RIVA_MODEL_SELECTED", "model_version"),
            ("RIVA_ASR_LANG_CODE", "RIVA_LANGUAGE_CODE", "language"),
            ("ENV", "ENV_VERSION", "env"),
        ],
    )
    def test_the_older_name_wins_wherever_it_stands(
        self, monkeypatch: pytest.MonkeyPatch, older: str, newer: str, field: str
    ) -> None:
        def value(word: str) -> str:
            return f"s3://{word}/a_v1.tar.gz" if field == "source" else f"{word}-v1"

        if older != "RIVA_ASR_MODEL_SOURCE_URI":  # of two aliases the place decides first
            Path(".env").write_text(f"{older}={value('old')}\n")
        else:
            monkeypatch.setenv(older, value("old"))
        monkeypatch.setenv(newer, value("new"))
        assert getattr(load(without(field)).request, field) == value("old")

    def test_a_flag_wins_over_an_alias(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RIVA_MODEL_SELECTED", SELECTED)
        monkeypatch.setenv("ENV_VERSION", "dev")
        request = load(FLAGS).request
        assert (request.model_name, request.model_version, request.env) == ("parakeet", "v1", "prod")

    @pytest.mark.parametrize(
        ("selected", "version"),
        [
            (SELECTED, "v8.1"),
            ("model_v2.tar.gz", "v2"),
            ("model_v1_v2.3.riva", "v2.3"),
            ("model.tar.gz", None),
            ("model_vocab.tar.gz", None),
            ("model_v8.1rc1.tar.gz", None),
            ("Conformer-CTC-XL_Riva-ASR-SET-4.0.riva", None),
        ],
    )
    def test_the_version_in_a_files_name(
        self, monkeypatch: pytest.MonkeyPatch, selected: str, version: str | None
    ) -> None:
        monkeypatch.setenv("RIVA_MODEL_SELECTED", selected)
        if version is not None:
            assert load(without("model_version")).request.model_version == version
            return
        found = problems(without("model_version"))["model_version"]
        assert "RIVA_MODEL_SELECTED has no version to take it from" in found
        assert load(FLAGS).request.model_version == "v1"  # given, it need not be in the name

    def test_a_counter_is_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENV_VERSION", "3")
        assert "a counter" in problems(without("env"))["env"]
        assert load(FLAGS).request.env == "prod"

    @pytest.mark.parametrize(
        ("models", "bucket"), [("model-archives", "model-archives"), ("", "staging-bucket")]
    )
    def test_a_path_without_a_bucket_is_a_key(
        self, monkeypatch: pytest.MonkeyPatch, models: str, bucket: str
    ) -> None:
        monkeypatch.setenv("RIVA_MODEL_PATH", f"bintarball/{SELECTED}")
        monkeypatch.setenv("RIVA_MODELS_S3_BUCKET", models)
        request = load(without("source")).request
        assert (request.source, request.bucket) == (f"s3://{bucket}/bintarball/{SELECTED}", "staging-bucket")

    def test_a_path_on_a_disk_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RIVA_MODEL_PATH", "/opt/models/m.tar.gz")
        found = problems(without("source"))
        assert "RIVA_MODEL_PATH is not an S3 URI" in found["source"]
        monkeypatch.setenv("RIVA_MODEL_PATH", "m.tar.gz")
        assert "key without a bucket" in problems(without("source", "bucket"))["source"]


class TestSwitches:
    """Yes and no in the environment."""

    @pytest.mark.parametrize(
        ("word", "said"),
        [(w, True) for w in ("1", "true", "YES", "on", " True ")]
        + [(w, False) for w in ("0", "False", "no", "OFF")],
    )
    def test_words(self, monkeypatch: pytest.MonkeyPatch, word: str, said: bool) -> None:
        for variable in ("FORCE_DOWNLOAD", "DRY_RUN", "CHECKSUM_VALIDATION", "REFERENCE_ONLY", "TRACE"):
            monkeypatch.setenv(variable, word)
        loaded = load(FLAGS)
        request = loaded.request
        assert (request.force, request.dry_run, request.no_checksum) == (said, said, not said)
        assert (request.reference_only, loaded.trace) == (said, said)

    def test_a_command_that_asks_for_a_switch_is_told_what_it_says(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``promote`` with a misspelt DRY_RUN must not go and promote."""
        assert load_endpoint(FLAGS, switches=("dry_run",)).dry_run is None
        monkeypatch.setenv("DRY_RUN", "on")
        assert load_endpoint(FLAGS, switches=("dry_run",)).dry_run is True
        assert load_endpoint(FLAGS).dry_run is None
        monkeypatch.setenv("DRY_RUN", "y")
        assert load_endpoint(FLAGS).dry_run is None
        with pytest.raises(SettingsError) as caught:
            load_endpoint(FLAGS, switches=("dry_run",))
        assert [(problem.setting, problem.code) for problem in caught.value.problems] == [
            ("dry_run", "malformed")
        ]
        assert load_endpoint({**FLAGS, "dry_run": True}, switches=("dry_run",)).dry_run is True

    def test_a_switch_that_is_neither_is_malformed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        variables = {
            "force": "FORCE_DOWNLOAD",
            "dry_run": "DRY_RUN",
            "no_checksum": "CHECKSUM_VALIDATION",
            "reference_only": "REFERENCE_ONLY",
            "bintarball_reference": "BINTARBALL_REFERENCE",
            "debug": "TRACE",
        }
        for variable in variables.values():
            monkeypatch.setenv(variable, "perhaps")
        monkeypatch.setenv("ARTIFACT_RETENTION_DAYS", "many")
        found = problems(without("bucket"))
        assert set(found) == {*variables, "bucket", "retention_days"}
        for setting, variable in variables.items():
            assert f"{variable} is neither true nor false" in found[setting]
            assert f"for example: {variable}=true" in found[setting]

    def test_the_environment_can_take_back_what_the_file_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("FORCE_DOWNLOAD=yes\nREFERENCE_ONLY=yes\n")
        assert load(FLAGS).request.force
        monkeypatch.setenv("FORCE_DOWNLOAD", "no")
        monkeypatch.setenv("REFERENCE_ONLY", "no")
        request = load(FLAGS).request
        assert (request.force, request.mode) == (False, "full")

    @pytest.mark.parametrize(
        ("flag", "environment", "file", "mode"),
        [
            (None, "", "", "full"),
            (None, "REFERENCE_ONLY", "", "reference_only"),
            (None, "", "BINTARBALL_REFERENCE", "bintarball_reference"),
            (None, "REFERENCE_ONLY", "BINTARBALL_REFERENCE", "reference_only"),
            (None, "REFERENCE_ONLY BINTARBALL_REFERENCE", "", "bintarball_reference"),
            ("full", "REFERENCE_ONLY", "BINTARBALL_REFERENCE", "full"),
            ("reference_only", "BINTARBALL_REFERENCE", "", "reference_only"),
            ("bintarball_reference", "REFERENCE_ONLY", "", "bintarball_reference"),
        ],
    )
    def test_the_mode(
        self, monkeypatch: pytest.MonkeyPatch, flag: str | None, environment: str, file: str, mode: str
    ) -> None:
        for variable in environment.split():
            monkeypatch.setenv(variable, "1")
        Path(".env").write_text("".join(f"{variable}=1\n" for variable in file.split()))
        loaded = load({**FLAGS, "mode": flag, "server_path": "riva.tar.gz"})
        assert loaded.request.mode == mode
        both = " " in environment
        assert [warning.code for warning in loaded.warnings] == (["two-modes"] if both else [])

    def test_a_bintarball_reference_needs_an_image(self) -> None:
        found = problems({**without("bucket"), "mode": "bintarball_reference"})
        assert set(found) == {"bucket", "server_path"}
        assert "RIVA_SERVER_PATH is not set (bintarball_reference needs it)" in found["server_path"]
        found = problems({**FLAGS, "mode": "bintarball_reference", "server_path": "/on/a/disk.tar.gz"})
        assert "neither an S3 URI nor a key" in found["server_path"]

    def test_an_image_inside_the_staging_is_refused(self) -> None:
        found = problems({**FLAGS, "server_path": "prod/parakeet/v1/source/riva.tar.gz"})
        assert "inside the destination prefix" in found["server_path"]


class TestFile:
    """Which file is read, and where state goes."""

    def test_the_environment_names_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        Path(".env").write_text("MODEL_VERSION=default\n")
        Path("named.env").write_text("MODEL_VERSION=named\n")
        Path("flag.env").write_text("MODEL_VERSION=flag\n")
        monkeypatch.setenv("RIVA_ENV_FILE", "named.env")
        assert load(without("model_version")).request.model_version == "named"
        assert load(without("model_version"), env_file=Path("flag.env")).request.model_version == "flag"
        monkeypatch.setenv("RIVA_ENV_FILE", "none.env")
        with pytest.raises(ConfigurationError, match="named by RIVA_ENV_FILE"):
            load(FLAGS)

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("${OUTSIDE}/x", "outside/x"),
            ('"${OUTSIDE}"', "outside"),
            ("'${OUTSIDE}'", "outside"),
            ("\\${OUTSIDE}", "\\outside"),
            ("${OUTSIDE:-default}", "outside"),
            ("${ABOVE}", "above"),
            ("x${BELOW}${NOWHERE}", "x"),
            ("${NOWHERE:-default}", "default"),
            ("$OUTSIDE", "$OUTSIDE"),
            ("'pa$$word${'", "pa$$word${"),
            ("${:-$}{OUTSIDE}", "${OUTSIDE}"),
        ],
    )
    def test_what_a_dollar_means_in_it(
        self, written: str, read: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """docs/configuration.md has the rules, and how a dollar stays one."""
        monkeypatch.setenv("OUTSIDE", "outside")
        monkeypatch.setenv("ABOVE", "environment")
        Path(".env").write_text(f"ABOVE=above\nVALUE={written}\nBELOW=below\n")
        assert read_env_file(None).values["VALUE"] == read

    def test_a_dollar_in_the_environment_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RIVA_ASR_MODEL_ARCHITECTURE", "${HOME}")
        assert load(FLAGS).request.architecture == "${HOME}"

    @pytest.mark.parametrize("broken", ["dangling", "loop", "encoding", "size", "NUL"])
    def test_a_broken_default_file_is_to_be_corrected_and_another_to_be_replaced(
        self, broken: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def hint(named: Path | None = None) -> str:
            with pytest.raises(ConfigurationError, match=r"\.env.* cannot be read") as caught:
                read_env_file(named)
            return caught.value.hint

        file = Path(".env")
        if broken in {"dangling", "loop"}:
            file.symlink_to("nowhere" if broken == "dangling" else ".env")
        else:
            file.write_bytes(
                {"encoding": "ENV=dev\n".encode("utf-16"), "size": b"#" * (1 << 21), "NUL": b"A=\0"}[broken]
            )
        assert hint() == "correct or remove it, or name another file with --env-file FILE"
        assert hint(file) == "name another file with --env-file FILE, or none, to use ./.env if there is one"
        monkeypatch.setenv("RIVA_ENV_FILE", ".env")
        assert hint() == "name another file with RIVA_ENV_FILE, or none, to use ./.env if there is one"

    def test_state_goes_where_it_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def folder(state_dir: Path | None = None) -> Path:
            return state_dir_of(Namespace(state_dir=state_dir))

        assert load(FLAGS).request.state_dir is None
        assert folder() == Path("state")
        monkeypatch.setenv("RIVA_STREAM_ROOT", "/repository")
        assert folder() == Path("/repository/state")
        monkeypatch.setenv("RIVA_STATE_DIR", "other")
        assert folder() == Path("/repository/other")
        assert folder(state_dir=Path("mine")) == Path("mine")
        monkeypatch.setenv("RIVA_STATE_DIR", str(tmp_path))
        assert folder() == tmp_path


class TestCredentials:
    """What the file holds for the AWS libraries is handed on, and kept out of sight."""

    def test_they_are_handed_on_without_our_own_settings(self) -> None:
        Path(".env").write_text(
            "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=secret\nAWS_SESSION_TOKEN=token\n"
            "AWS_ROLE_ARN=arn\nAWS_REGION=r\nOTHER=1\nAWS_EMPTY=\n"
        )
        loaded = load(FLAGS)
        assert loaded.environment == {
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
            "AWS_ROLE_ARN": "arn",
        }
        assert "secret" not in repr(loaded)

    def test_nothing_global_changes(self) -> None:
        Path(".env").write_text("AWS_ACCESS_KEY_ID=id\nMODEL_VERSION=v\n")
        before = dict(os.environ)
        load(FLAGS)
        assert dict(os.environ) == before

    def test_keys_of_two_places_are_not_mixed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text(
            "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=secret\nAWS_SESSION_TOKEN=stale\nAWS_ROLE_ARN=arn\n"
        )
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine")
        loaded = load(FLAGS)
        assert loaded.environment == {"AWS_ROLE_ARN": "arn"}
        (warning,) = loaded.warnings
        assert warning.code == "keys-apart"
        assert "AWS_SESSION_TOKEN" in warning.message
        assert "AWS_SECRET_ACCESS_KEY" not in warning.message, "both have one"
        monkeypatch.setenv("AWS_SESSION_TOKEN", "mine")
        assert load(FLAGS).warnings == ()

    def test_half_a_pair_of_keys_says_that_the_other_half_is_not_taken_from_the_file(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(".env").write_text("AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=secret\n")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        assert [warning.code for warning in load(FLAGS).warnings] == ["keys-apart"]
        assert [warning.code for warning in load_endpoint(FLAGS).warnings] == ["keys-apart"]

    def test_keys_win_over_a_profile_of_the_same_place_or_below(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(".env").write_text("AWS_PROFILE=work\n")
        assert load(FLAGS).request.profile == "work"
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        loaded = load(FLAGS)
        assert loaded.request.profile is None
        assert [warning.code for warning in loaded.warnings] == ["profile-outranked"]
        assert load({**FLAGS, "profile": "asked"}).request.profile == "asked"

    def test_a_blank_profile_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "  ")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
        assert load(FLAGS).request.profile is None
        assert load_endpoint(FLAGS).profile is None

    def test_a_profile_of_the_environment_wins_over_keys_of_the_file(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(".env").write_text("AWS_ACCESS_KEY_ID=id\n")
        monkeypatch.setenv("AWS_PROFILE", "work")
        loaded = load(FLAGS)
        assert loaded.request.profile == "work"
