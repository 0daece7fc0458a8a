"""Credentials and the files they come from: what is wrong with them is said at once, as what it is, without a request."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aioboto3
import anyio.to_thread
import pytest
from aiobotocore.credentials import AioRefreshableCredentials

from riva_stream.errors import ConfigurationError, StalledError
from riva_stream.s3 import StoreSettings, open_store
from riva_stream.s3.credentials import _Guarded
from riva_stream.s3.session import prepared
from tests.cli_processes import run

NOWHERE = "http://127.0.0.1:9"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIDTHATISRIGHT",
    "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-right",
    "AWS_SESSION_TOKEN": "a-token-that-is-right",
}
ARGV = (
    *("--source", "s3://models/m_v1.tar.gz", "--bucket", "deployments", "--env", "prod"),
    *("--model-name", "m", "--model-version", "v1", "--region", "us-east-1", "--endpoint-url", NOWHERE),
)


async def opened(*, limit: float = 20.0, profile: str | None = None) -> list[str]:
    """Open a store; gives what was warned of. Nothing listens where it would be."""
    warnings: list[str] = []
    settings = StoreSettings(
        region="us-east-1", endpoint_url=NOWHERE, profile=profile, credentials_timeout=limit
    )
    async with open_store(settings, warn=warnings.append):
        return warnings


def put_keys(patch: pytest.MonkeyPatch, **changed: str) -> None:
    for name, value in (KEYS | changed).items():
        patch.setenv(name, value)


# --- values that no request can carry

ODD = {
    "a line break in the key": ("AWS_ACCESS_KEY_ID", "AKIDQQ\nZZZ"),
    "a carriage return in the key": ("AWS_ACCESS_KEY_ID", "AKIDQQ\rZZZ"),
    "a blank in the key": ("AWS_ACCESS_KEY_ID", "AKIDQQ ZZZ"),
    "another alphabet in the key": ("AWS_ACCESS_KEY_ID", "AKIDQQ\u0416ZZZ"),
    "bytes in the key": ("AWS_ACCESS_KEY_ID", "AKIDQQ\udcffZZZ"),
    "a line break in the secret": ("AWS_SECRET_ACCESS_KEY", "QQ\nZZZ"),
    "a bell in the secret": ("AWS_SECRET_ACCESS_KEY", "QQ\aZZZ"),
    "typographic quotes in the secret": ("AWS_SECRET_ACCESS_KEY", "\u201cQQZZZ\u201d"),
    "bytes in the secret": ("AWS_SECRET_ACCESS_KEY", "QQ\udcffZZZ"),
    "a line break in the token": ("AWS_SESSION_TOKEN", "QQ\r\nZZZ"),
    "a tab in the token": ("AWS_SESSION_TOKEN", "QQ\tZZZ"),
    "bytes in the token": ("AWS_SESSION_TOKEN", "QQ\udcffZZZ"),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_no_request_can_carry_is_refused_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, value = ODD[name]
    put_keys(monkeypatch, **{variable: value})
    with pytest.raises(ConfigurationError) as caught:
        await opened()
    assert variable in caught.value.hint
    assert "QQ" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("variable", KEYS)
@pytest.mark.parametrize("blanks", ["\n", "\r\n", " ", "\t"])
async def test_blanks_around_a_value_are_ignored_with_a_warning(
    variable: str, blanks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_keys(monkeypatch, **{variable: f"{blanks}{KEYS[variable]}{blanks}"})
    session = aioboto3.Session()
    warnings: list[str] = []
    async with open_store(
        StoreSettings(region="us-east-1", endpoint_url=NOWHERE), session=session, warn=warnings.append
    ):
        found = await (await session._session.get_credentials()).get_frozen_credentials()
    assert {found.access_key, found.secret_key, found.token} == set(KEYS.values())
    assert len(warnings) == 1
    assert len(await opened()) == 1


@pytest.mark.parametrize("command", ["stage", "check"])
def test_the_command_line_ends_at_once(command: str, tmp_path: Path) -> None:
    for name in ("a line break in the key", "bytes in the secret", "a tab in the token"):
        variable, value = ODD[name]
        done = run(
            "riva_stream", command, *ARGV, "--json", cwd=tmp_path, env={**os.environ, **KEYS, variable: value}
        )
        assert done.returncode == 78
        assert "QQ" not in done.stdout + done.stderr
        assert "Retry" not in done.stderr


async def test_credentials_that_are_renewed_are_looked_at_again() -> None:
    answers = [
        {"access_key": "AKID", "secret_key": "s", "token": "t\n"},
        {"access_key": "A\nB", "secret_key": "s"},
    ]

    class Provider:
        METHOD = "custom-process"

        async def load(self) -> AioRefreshableCredentials:
            async def refresh() -> dict[str, str]:
                late = datetime.now(UTC) + timedelta(minutes=1)  # so near that each use renews them
                return {"token": "", "expiry_time": late.isoformat(), **answers.pop(0)}

            return AioRefreshableCredentials.create_from_metadata(await refresh(), refresh, "custom-process")

    warnings: list[str] = []
    found = await _Guarded(Provider(), 20, warnings.append).load()
    assert found._frozen_credentials.token == "t"
    assert len(warnings) == 1
    with pytest.raises(ConfigurationError):
        await found.get_frozen_credentials()


# --- helpers


def helper(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile `helped` whose credentials come from a shell script."""
    program = folder / "helper"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    process(folder, str(program), monkeypatch)


def process(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "config").write_text(f"[profile helped]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


SCRIPTS = {
    "no JSON": "echo QQ",
    "nothing": "true",
    "a list": "echo '[1]'",
    "a text": "echo '\"QQ\"'",
    "no UTF-8": 'printf \'{"Version": 1, "AccessKeyId": "\\377QQ"}\'',
    "another version": "echo '{\"Version\": 2}'",
    "no secret": 'echo \'{"Version": 1, "AccessKeyId": "QQ"}\'',
    "a null": 'echo \'{"Version": 1, "AccessKeyId": null, "SecretAccessKey": "QQ"}\'',
    "a number": 'echo \'{"Version": 1, "AccessKeyId": 1, "SecretAccessKey": "QQ"}\'',
    "a line break": 'echo \'{"Version": 1, "AccessKeyId": "a\\nb", "SecretAccessKey": "QQ"}\'',
    "an odd date": 'echo \'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "QQ", "Expiration": "soon"}\'',
    "a failure": "exit 3",
    "noise on standard error": "printf '\\377' >&2; exit 3",
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_helper_that_gives_nothing_of_use(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, SCRIPTS[name], monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        await opened(profile="helped")
    assert "QQ" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "command", ["/no/such/helper", "no-such-helper --x", "/etc", "/etc/passwd", "'open", '"']
)
async def test_a_helper_that_cannot_be_started(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process(tmp_path, command, monkeypatch)
    with pytest.raises(ConfigurationError):
        await opened(profile="helped")


@pytest.mark.parametrize("nested", [False, True])
async def test_a_helper_that_hangs_is_killed_with_what_it_has_started(
    nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "held")
    helper(tmp_path, f"exec 9>{tmp_path}/held; sleep 600 & sleep 600", monkeypatch)
    if nested:
        role = "[profile role]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = helped\n"
        with (tmp_path / "config").open("a") as file:
            file.write(role)
    held: list[bytes] = []
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            held.append(await anyio.to_thread.run_sync((tmp_path / "held").read_bytes))

        tasks.start_soon(watch)  # ends when the last of them is gone
        with pytest.raises(StalledError):
            await opened(profile="role" if nested else "helped", limit=2)
    assert held == [b""]


def test_a_run_waits_for_a_helper_no_longer_than_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, "exec sleep 600", monkeypatch)
    done = run(
        *("riva_stream", "stage", *ARGV, "--profile", "helped", "--timeout", "1", "--json"),
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert done.returncode == 75
    assert json.loads(done.stdout)["error"]["type"] == "StalledError"


def test_check_does_not_wait_for_a_helper_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "exec sleep 600", monkeypatch)
    done = run(
        *("riva_stream", "check", *ARGV, "--profile", "helped", "--limit", "1", "--json"),
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert done.returncode == 75
    failed = [
        record["component"] for record in json.loads(done.stdout)["records"] if record["status"] == "fail"
    ]
    assert failed == ["credentials"]


# --- files

SECRET_LINE = "aws_secret_access_key QQ"
FILES: dict[str, tuple[str | bytes, int]] = {
    "no pair": (f"[default]\nregion = x\n{SECRET_LINE}\n", 3),
    "no section": (f"{SECRET_LINE}\n[default]\n", 1),
    "a key twice": ("[default]\naws_access_key_id = QQ\n\naws_access_key_id = QQ\n", 4),
    "a section twice": ("[default]\nregion = x\n[default]\n", 3),
    "no UTF-8": (b"[default]\nregion = x\n# \xff QQ\n", 3),
    "no UTF-8 beyond a page": (b"[default]\n" + b"# x\n" * 9000 + b"# \xff QQ\n", 9002),
    "a list that is none": ("[default]\ns3 =\n  addressing_style path QQ\n", 3),
}


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
@pytest.mark.parametrize("name", FILES)
async def test_a_file_that_cannot_be_parsed_is_named_with_its_line(
    name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, line = FILES[name]
    path = tmp_path / "aws"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setenv(variable, str(path))
    put_keys(monkeypatch)
    with pytest.raises(ConfigurationError) as caught:
        await opened()
    assert f"{path}, line {line}" in str(caught.value)
    assert "QQ" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "command", [("stage", *ARGV), ("check", *ARGV), ("ls", "s3://b/", "--region", "us-east-1")]
)
def test_every_command_says_so(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "aws").write_text("[default\n")
    env = {**os.environ, **KEYS, "AWS_CONFIG_FILE": str(tmp_path / "aws")}
    done = run("riva_stream", *command, "--json", cwd=tmp_path, env=env)
    assert done.returncode == 78
    assert "aws, line 1" in done.stdout


# --- values of the configuration

VALUES = {
    "an endpoint without a scheme": "endpoint_url = QQhost:9000",
    "an endpoint of a services section": "services = x\n[services x]\ns3 =\n  endpoint_url = QQ",
    "a word where there is a table": "s3 = QQ",
    "a unit": "metadata_service_timeout = 5QQ",
    "a fraction": "metadata_service_num_attempts = 1.5QQ",
    "a mode that there is not": "ec2_metadata_service_endpoint_mode = QQ",
    "an endpoint that is none": "ec2_metadata_service_endpoint = QQ://",
    "half an address": "ec2_metadata_service_endpoint = http://[QQ",
}


@pytest.mark.parametrize("section", ["default", "profile mine"])
@pytest.mark.parametrize("name", VALUES)
async def test_a_value_that_the_sdk_can_make_nothing_of_is_named_with_its_profile(
    name: str, section: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_keys(monkeypatch)
    config = tmp_path / "config"
    config.write_text(f"[{section}]\n{VALUES[name]}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    profile = section.removeprefix("profile ")
    endpoint = None if "endpoint_url" in VALUES[name] else NOWHERE
    if section != "default":
        monkeypatch.setenv("AWS_PROFILE", profile)
    settings = StoreSettings(region="us-east-1", endpoint_url=endpoint)
    with pytest.raises(ConfigurationError) as caught:
        async with open_store(settings, warn=lambda _: None):
            pass
    told = f"{caught.value} {caught.value.hint}"
    assert f"{config}, profile {profile}, which sets {VALUES[name].partition(' =')[0]}" in told
    assert "QQ" not in told
    assert caught.value.exit_code == 78


async def test_a_directory_of_certificates_is_no_matter_without_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path))
    settings = StoreSettings(region="us-east-1", endpoint_url="http://127.0.0.1:9")
    async with open_store(settings, warn=print):
        pass


async def test_sessions_read_the_models_of_the_sdk_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """60 ms of CPU for each session otherwise, and as many megabytes; with another search path they are others."""

    async def loader() -> object:
        made = await prepared(StoreSettings(region="eu-central-1", unsigned=True), None, pytest.fail)
        return made._session.get_component("data_loader")

    first = await loader()
    assert await loader() is first
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    assert await loader() is not first
