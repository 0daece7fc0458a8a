"""The log of a run, the diagnostics of a failed one, their copies in S3, and that none of them has a secret."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import string
import subprocess
import tarfile
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import riva_stream
from riva_stream import handover
from riva_stream import redact as redacting
from riva_stream.cli import main
from riva_stream.cli.logs import LogFile, LogJson, LogLines
from riva_stream.cli.old_runs import remove_old_runs
from riva_stream.cli.progress import Renderer, record_of
from riva_stream.config import StageRequest
from riva_stream.events import PhaseChanged, RetryScheduled, Warned
from riva_stream.redact import Redactor, is_secret, redact, remember, without_userinfo
from tests.cli_processes import double, run
from tests.copying import Model, Watched, asked, made
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Refuse
from tests.support.servers import MotoServer

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEXAMPLE//////TOKEN=="
NGC = "nvapi-0123456789abcdefghij"
OTHER = "another/secret+of-the.file0123456789"


@pytest.fixture
def place(moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(moto, monkeypatch)
    return Place(moto, moto_bucket)


def settings(place: Place) -> list[str]:
    return [
        *(f"--source=s3://{place.bucket}/{SOURCE_KEY}", f"--bucket={place.bucket}", "--env=prod"),
        *("--model-name=parakeet-rnnt-en-us", "--model-version=v2025.09", "--retries=1"),
    ]


def stage(place: Place, folder: Path, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run(
        "riva_stream", "stage", *settings(place), *flags, cwd=folder, timeout=60, env={**os.environ, **env}
    )


def the_log(folder: Path) -> Path:
    (log,) = folder.glob("*.log")
    return log


def bundle_of(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found


# --- the log


def test_every_line_has_the_time_the_level_and_the_run(place: Place, tmp_path: Path) -> None:
    place.source()
    done = stage(place, tmp_path, "--run-id=R1", LOG_DIR="logs of mine", LOG_TEE_STDOUT="1")
    assert done.returncode == 0, done.stderr
    log = tmp_path / "logs of mine" / "R1.log"
    lines = log.read_text().splitlines()
    assert all("Z [INFO] [R1] " in line or "Z [WARNING] [R1] " in line for line in lines)
    assert "python -m riva_stream stage" in lines[0]
    assert any("found parakeet/model-0.riva" in line for line in lines)
    assert any("staged after" in line for line in lines)
    # stdout still has the result alone, and standard error the lines of the log in place of its own
    assert done.stdout.startswith("Staged (in full)\n")
    assert all("Z [" in line for line in done.stderr.splitlines())
    assert any("found parakeet/model-0.riva" in line for line in done.stderr.splitlines())


def test_json_lines_have_the_fields_of_the_scripts(tmp_path: Path) -> None:
    done = double("denied", "--run-id=R2", cwd=tmp_path, env={"LOG_FORMAT": "json"})
    assert done.returncode == 77
    lines = [json.loads(line) for line in the_log(tmp_path / "state/logs").read_text().splitlines()]
    head = ("timestamp", "level", "script_id", "script_name", "run_id", "host", "step", "message")
    assert all(set(head) <= line.keys() for line in lines)
    assert {(line["run_id"], line["script_id"]) for line in lines} == {("R2", "130")}
    assert lines[-1]["level"] == "ERROR"
    assert "not allowed" in lines[-1]["message"]
    assert [line["level"] for line in lines if line.get("event") == "stage_started"] == ["INFO"]


def test_odd_variables_are_a_warning_and_the_file_of_settings_counts(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL=loud\nLOG_TO_S3=1\nLOG_FORMAT=xml\nLOG_DIR=here\n")
    done = double("good", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["warnings"]
    warnings = "\n".join(warning["message"] for warning in told if warning["code"] == "log-settings")
    for said in ("LOG_LEVEL is not one of", "LOG_S3_BUCKET is not a bucket", "LOG_FORMAT is neither"):
        assert said in warnings
    assert "a.riva" in the_log(tmp_path / "here").read_text()


@pytest.mark.parametrize(("flags", "variable"), [(["--log-level=error"], "DEBUG"), ([], "ERROR")])
def test_the_level_is_the_least_that_is_written(flags: list[str], variable: str, tmp_path: Path) -> None:
    double("denied", *flags, cwd=tmp_path, env={"LOG_LEVEL": variable})
    lines = the_log(tmp_path / "state/logs").read_text().splitlines()
    assert all("[ERROR]" in line for line in lines)
    assert any("not allowed" in line for line in lines)


@pytest.mark.parametrize("run_id", ["../../outside/x", "..", "a/b"])
def test_a_run_id_that_is_none_names_no_file(run_id: str, tmp_path: Path) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    done = double("good", "--run-id", run_id, "--json", cwd=here)
    assert done.returncode == 78
    assert [problem["setting"] for problem in json.loads(done.stdout)["error"]["problems"]] == ["run_id"]
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert [path.name for path in here.iterdir()] == ["state"]
    assert the_log(here / "state/logs").name.startswith("130-")
    assert len(list((here / "state/runs").iterdir())) == 1


@pytest.mark.parametrize("folder", ["file/logs", "/dev/full"])
def test_a_log_that_cannot_be_written_is_a_warning(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    if folder == "/dev/full":  # a disk that is full: it opens, and takes nothing
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "R3.log").symlink_to("/dev/full")
        folder = "full"
    done = double("good", "--json", "--run-id=R3", f"--log-dir={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    warnings = json.loads(done.stdout)["warnings"]
    assert len([warning for warning in warnings if "R3.log cannot be written" in warning["message"]]) == 1
    assert (tmp_path / "state" / "130.status").read_text().startswith("status=success\n")


@pytest.mark.parametrize(
    ("more", "code", "warned"),
    [([], 78, ""), (["--dry-run"], 0, "no state and no log"), (["--dry-run", "--log-dir=logs"], 0, "no state:"),
     (["--env=a/b"], 78, "no state and no log")],
)  # fmt: skip
def test_a_state_directory_that_cannot_be_written_is_said_once(
    more: list[str], code: int, warned: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    done = double("good", "--state-dir=file/state", *more, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if "file/state" in line and "python -m" not in line]
    assert len(lines) == 1
    assert warned in lines[0]
    assert ("warning: this run leaves" in lines[0]) == bool(warned)
    if code and warned:
        assert "--env or ENV must be" in done.stderr
    assert (tmp_path / "logs").exists() == ("--log-dir=logs" in more)


def test_a_message_of_many_lines_has_the_run_in_each() -> None:
    renderer = LogLines("R4")
    text = renderer.format(record_of("riva_stream: one\n  two\n  exit code 1, run R4\n", logging.ERROR))
    assert [line.partition(" ")[2] for line in text.splitlines()] == [
        "[ERROR] [R4] riva_stream: one",
        "[ERROR] [R4]   two",
        "[ERROR] [R4]   exit code 1, run R4",
    ]
    assert renderer.format(record_of(PhaseChanged(phase="done"))) == ""
    retry = RetryScheduled(operation="PutObject", attempt=1, delay=0.5, reason="SlowDown", request_id="Q1")
    assert "[WARNING] [R4] retry 1 of PutObject" in renderer.format(record_of(retry))
    assert json.loads(LogJson("R4").format(record_of(retry)))["request_id"] == "Q1"


def test_the_level_of_a_line_is_that_of_its_kind_whatever_it_says() -> None:
    texts = (
        "a library says\n  exit code 1",
        Warned(code="gc", message="riva_stream: x\n  exit code 75, run R"),
    )
    for item in texts:
        assert "[WARNING]" in LogLines("R").format(record_of(item))
        assert json.loads(LogJson("R").format(record_of(item)))["level"] == "WARNING"
    assert "[INFO]" in LogLines("R").format(record_of(Warned(code="started", message="warning: error")))
    assert "[ERROR]" in LogLines("R").format(record_of("all is well", logging.ERROR))


def test_a_file_that_fails_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "full.log").symlink_to("/dev/full")
    file = LogFile(tmp_path / "full.log", Renderer(), said.append)
    assert file.open()
    for _ in range(3):
        file.handle(record_of("x" * 10_000))
    assert said == [f"{tmp_path / 'full.log'} cannot be written: No space left on device"]


# --- diagnostics


async def refused_stage(place: Place, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    rules = [Rule("CreateMultipartUpload", key="*/source/*", occurrence="every", fault=Refuse("SlowDown"))]
    async with FaultProxy(place.server, rules) as proxy:
        return await asyncio.to_thread(stage, place, folder, f"--endpoint-url={proxy.endpoint_url}", *flags)


def test_a_failure_leaves_one_bundle_with_all_that_a_maintainer_asks_for(
    place: Place, tmp_path: Path
) -> None:
    place.source()
    done = asyncio.run(refused_stage(place, tmp_path, "--json", f"--log-to-s3=s3://{place.bucket}/logs/"))
    assert done.returncode == 75, done.stderr
    document = json.loads(done.stdout)
    bundle, log = Path(document["error"]["diagnostics"]), Path(document["error"]["log_file"])
    assert f"diagnostics: {bundle}\n" in done.stderr
    assert f"log:         {log}\n" in done.stderr
    run_id = document["run_id"]
    assert bundle == tmp_path / "state" / "runs" / run_id / "diagnostics.tar.gz"
    files = bundle_of(bundle)
    assert json.loads(files["error.json"])["error"]["type"] == "ThrottledError"
    assert "ThrottledError" in files["traceback.txt"]
    assert json.loads(files["settings.json"])["settings"]["bucket"] == place.bucket
    versions = json.loads(files["versions.json"])
    assert {"riva-stream", "aioboto3", "botocore", "anyio"} <= versions["packages"].keys()
    assert versions["python"]
    assert run_id in files["run.log"]
    events = [json.loads(line) for line in files["events.jsonl"].splitlines()]
    assert "retry_scheduled" in {event["event"] for event in events}
    requests = [json.loads(line) for line in files["requests.jsonl"].splitlines()]
    assert requests[-1]["request_id"] == document["error"]["where"]["request_id"]
    assert len(requests) == 2
    assert all(request["request_id"] for request in requests)
    # --log-to-s3: log and bundle, under the run's id
    assert sorted(place.names("logs/")) == [
        f"130/{run_id}/{run_id}.log",
        f"130/{run_id}/diagnostics.tar.gz",
    ]
    assert place.read(f"logs/130/{run_id}/{run_id}.log") == log.read_bytes()
    assert place.names() == []  # nothing was created, so there is nothing to resume


def test_the_next_step_does_not_wait_for_the_diagnostics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object, **__: object) -> None:
        endings.append(handover.read(tmp_path).status.get("exit_code"))

    endings = list[str | None]()
    monkeypatch.setattr("riva_stream.cli.diagnostics.write_bundle", write)
    assert main(["stage", f"--state-dir={tmp_path}"]) == 78
    assert endings == ["78"]


def test_the_log_never_goes_beside_what_was_staged(place: Place, tmp_path: Path) -> None:
    place.source()
    done = stage(
        place,
        tmp_path,
        "--json",
        LOG_TO_S3="1",
        LOG_S3_BUCKET=place.bucket,
        LOG_S3_PREFIX=PREFIX + "logs",
    )
    assert done.returncode == 0, done.stderr
    assert any("is inside the staging" in told["message"] for told in json.loads(done.stdout)["warnings"])
    assert not [name for name in place.names("") if name.endswith(".log")]
    done = stage(place, tmp_path, "--json", LOG_TO_S3="true", LOG_S3_BUCKET=place.bucket)
    run_id = json.loads(done.stdout)["run_id"]
    assert place.names("riva-logs/") == [f"130/{run_id}/{run_id}.log"]
    done = stage(place, tmp_path, "--json", "--log-to-s3=s3://no-such-bucket-anywhere/x")
    assert done.returncode == 0
    assert any("not copied to S3" in told["message"] for told in json.loads(done.stdout)["warnings"])


# --- secrets


@pytest.mark.parametrize(
    ("where", "more"),
    [
        ("environment", []),
        ("file", ["--log-file-format=json", "--log-redact=off", "--log-level=debug", "--json"]),
    ],
)
def test_no_secret_survives_in_any_file(where: str, more: list[str], tmp_path: Path) -> None:
    values = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "NGC_API_KEY": NGC,
    }
    file = {"OTHER_PASSWORD": OTHER, "HF_TOKEN": "hf_0123456789abcdef"}
    lines = file | (values if where == "file" else {})
    (tmp_path / ".env").write_text("".join(f"export {k}='{v}'\n" for k, v in lines.items()))
    environment = values if where == "environment" else {}
    leaks = " ".join([*lines.values(), quote(OTHER, safe="")])
    flags = [
        *more,
        "--run-id=R5",
        f"--description={leaks} AKIAIOSFODNN7EXAMPLE http://me:hunter22@localhost:9/?X-Amz-Signature=0a1b2c",
    ]
    done = double("secret", *flags, cwd=tmp_path, env=environment)
    assert done.returncode == 77
    texts = {"stderr": done.stderr, "stdout": done.stdout}
    for path in (tmp_path / "state").rglob("*"):
        if path.name == "diagnostics.tar.gz":
            texts |= {f"{path}:{name}": text for name, text in bundle_of(path).items()}
        elif path.is_file():
            texts[str(path)] = path.read_text()
    assert len(texts) > 10
    secrets = [*values.values(), *file.values(), quote(OTHER, safe=""), quote(SECRET, safe=""), "hunter22"]
    for name, text in texts.items():
        for secret in [*secrets, "0a1b2c"]:
            assert secret not in text, name
    assert any("leaked" in text for name, text in texts.items() if name.endswith("R5.log"))


@pytest.mark.parametrize(("where", "loop"), [("environment", "asyncio"), ("file", "auto")])
def test_children_of_stage_all_redact_what_stage_redacts(
    where: str, loop: str, place: Place, tmp_path: Path
) -> None:
    """Though they are not given the variables: those would configure what they stage."""
    place.source()
    variables = {
        "LOG_REDACT": "RIVA_CUSTOMER, NVIDIA_DRIVERS_S3_BUCKET",
        "RIVA_CUSTOMER": "acme-corp",
        "NVIDIA_DRIVERS_S3_BUCKET": "elsewhere",
        "RIVA_API_KEY": NGC,
        "LOG_LEVEL": "debug",
        "LOG_DIR": str(tmp_path / "logs"),
        "RIVA_STREAM_KEEP_RUNS": "nonsense",
    }
    if where == "file":
        # More than a pipe holds, or a variable.
        values = variables | {"HF_TOKEN": "x" * 200_000, "OTHER_PASSWORD": OTHER}
        (tmp_path / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in values.items()))
    entry = {
        "bucket": place.bucket,
        "env": "prod",
        "model_name": "acme-corp",
        "description": f"elsewhere {NGC}" + f" {OTHER}" * (where == "file"),
    }
    sources = {"v1": SOURCE_KEY, "v2": "acme-corp/missing.tar.gz"}
    entries = [{**entry, "source": f"s3://{place.bucket}/{sources[v]}", "model_version": v} for v in sources]
    (tmp_path / "c.json").write_text(json.dumps({"staging": entries}))
    done = run(
        *("riva_stream", "stage-all", "c.json", "--json", f"--loop={loop}"),
        cwd=tmp_path,
        env={**os.environ, **(variables if where == "environment" else {})},
        timeout=120,
    )
    first, second, _ = map(json.loads, done.stdout.splitlines())
    assert {first["exit_code"], second["exit_code"]} == {0, 66}, done.stdout
    assert first["destination"].startswith(f"s3://{place.bucket}/prod/acme-corp/v"), (
        "only files are redacted so"
    )
    texts = {"stdout": done.stdout.replace("acme-corp", ""), "stderr": done.stderr.replace("acme-corp", "")}
    for path in [*(tmp_path / "state").rglob("*"), *(tmp_path / "logs").iterdir()]:
        if path.name == "diagnostics.tar.gz":
            texts |= {f"{path}:{name}": text for name, text in bundle_of(path).items()}
        elif path.suffix in {".log", ".jsonl"}:
            texts[str(path)] = path.read_text()
    assert len(texts) == 2 + 2 * 2 + 8
    assert not [name for name, text in texts.items() if "acme-corp" in text or "elsewhere" in text]
    assert not [name for name, text in texts.items() if NGC in text or OTHER in text]
    logs = [text for name, text in texts.items() if name.endswith(".log") and ":" not in name]
    assert all("RIVA_STREAM_KEEP_RUNS must be" in log for log in logs)
    assert NGC not in "".join(path.read_text() for path in (tmp_path / "state").rglob("request.json"))


def test_of_the_environment_only_what_this_program_reads_is_shown(tmp_path: Path) -> None:
    hidden = {
        "RIVA_GPG_PASSPHRASE": "correct-horse-battery",
        "RIVA_DB_PWD": "db-password-123",
        "NVIDIA_NGC_KEY": "nvapi-123456789",
        "RIVA_PASS": "short",
        "AWS_SSE_CUSTOMER_KEY": "an-sse-key-of-a-customer",
    }
    unknown = {"RIVA_WEBHOOK_URL": "https://hooks/T0/B0/x1y2z3", "AWS_OF_ANOTHER_PROGRAM": "x1y2z3"}
    proxies = {"HTTPS_PROXY": "bob:hunter/2secret@proxy:3128", "http_proxy": "http://bob:pw@proxy:3128"}
    shown = {"RIVA_ASR_LANG_CODE": "en-US", "LOG_LEVEL": "debug", "AWS_MAX_ATTEMPTS": "7", "TRACE": "0"}
    (tmp_path / ".env").write_text("RIVA_DB_PASS=another-password\nRIVA_OTHER=x1y2z3\nENV=prod\n")
    double("denied", "--json", cwd=tmp_path, env={**hidden, **unknown, **proxies, **shown})
    (path,) = (tmp_path / "state/runs").glob("*/diagnostics.tar.gz")
    document = json.loads(bundle_of(path)["environment.json"])
    assert document["env_file"] == {"RIVA_DB_PASS": "***", "RIVA_OTHER": "set", "ENV": "prod"}
    found = document["environment"]
    assert {name: found[name] for name in hidden} == dict.fromkeys(hidden, "***")
    assert {name: found[name] for name in unknown} == dict.fromkeys(unknown, "set")
    assert {name: found[name] for name in proxies} == dict.fromkeys(proxies, "proxy:3128")
    assert {name: found[name] for name in shown} == shown


def test_the_name_of_a_variable_says_whether_it_is_secret() -> None:
    secret = ["RIVA_GPG_PASSPHRASE", "DB_PASS", "MYSQL_PWD", "RIVA_AUTH", "NVIDIA_NGC_KEY", "VAULT_SECRET_ID"]
    secret += ["RIVA_SIGNING_KEY", "AWS_SSE_CUSTOMER_KEY", "AZURE_STORAGE_KEY", "AWS_ACCESS_KEY_ID"]
    plain = ["PWD", "OLDPWD", "SSH_AUTH_SOCK", "XAUTHORITY", "COMPASS_URL", "S3_KEY", "SOURCE_OBJECT_KEY"]
    plain += ["GPG_PUBLIC_KEY", "KMS_KEY_ID", "VAULT_ROLE_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "PATH"]
    assert [name for name in secret + plain if is_secret(name)] == secret


def test_what_was_asked_to_be_redacted_is(tmp_path: Path) -> None:
    arn = "arn:aws:iam::123456789012:role/me"
    double(
        "denied",
        f"--description={arn} someone@example.com",
        cwd=tmp_path,
        env={"LOG_REDACT": "NVIDIA_DRIVERS_S3_BUCKET,source", "NVIDIA_DRIVERS_S3_BUCKET": "staging-bucket"},
    )
    log = the_log(tmp_path / "state/logs").read_text()
    (bundle,) = (tmp_path / "state/runs").glob("*/diagnostics.tar.gz")
    for text in (log, *bundle_of(bundle).values()):
        assert "staging-bucket" not in text
        assert "123456789012" not in text
        assert "someone@example.com" not in text
    assert json.loads(bundle_of(bundle)["settings.json"])["settings"]["source"] == "***"
    assert "s3://***/prod/parakeet-rnnt/v1/" in log


PRINTABLE = st.text(
    string.ascii_letters + string.digits + "/+=_-.~!@#$%^&*()[]{}|:;,<>? '\"\\", min_size=8, max_size=60
)


@given(secret=PRINTABLE, before=st.text(max_size=20), after=st.text(max_size=20))
def test_a_secret_survives_in_no_spelling(secret: str, before: str, after: str) -> None:
    secret = secret.strip()
    if len(secret) < 8:
        return
    redacting._remembered.clear()
    redacting._longest_first.clear()
    remember({"SOME_TOKEN": secret, "SOME_TOKEN_FILE": "/run/secrets/token"})
    for text in (
        before + secret + after,
        f"{before} https://h/?t={quote(secret, safe='')}&x=1 {after}",
        json.dumps({"x": before + secret + after}),
        json.dumps({"x": [secret]}, ensure_ascii=False),
        repr([secret]),
    ):
        shown = redact(text)
        assert secret not in shown
        assert quote(secret, safe="") not in shown
        assert json.dumps(secret)[1:-1] not in shown
    assert redact("/run/secrets/token") == "/run/secrets/token"
    redacting._remembered.clear()
    redacting._longest_first.clear()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/2025, Signature=ab",
            "Authorization: ***",
        ),
        ("{'Authorization': b'AWS4-HMAC x', 'n': 1}", "{'Authorization': b'***', 'n': 1}"),
        ('{"authorization": "Bearer a.b", "n": 1}', '{"authorization": "***", "n": 1}'),
        (r'"{\"Proxy-Authorization\": \"Basic YTpi\"}"', r'"{\"Proxy-Authorization\": \"***\"}"'),
        ("x-amz-security-token: FwoGZ/abc", "x-amz-security-token: ***"),
        (
            "https://h/k?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=ab&v=1",
            "https://h/k?X-Amz-Credential=***&X-Amz-Signature=***&v=1",
        ),
        (
            "https://h/k?AWSAccessKeyId=id&Signature=a%2Bb&Expires=1",
            "https://h/k?AWSAccessKeyId=***&Signature=***&Expires=1",
        ),
        (
            "https://h/k?X-Goog-Credential=me%40p&X-Goog-Signature=0a1b&v=1",
            "https://h/k?X-Goog-Credential=***&X-Goog-Signature=***&v=1",
        ),
        ("https://h/k?Key-Pair-Id=K1&Signature=a~b", "https://h/k?Key-Pair-Id=***&Signature=***"),
        ("https://h/k?GoogleAccessId=me%40p&Expires=1", "https://h/k?GoogleAccessId=***&Expires=1"),
        ("https://h/k?sv=1&sig=a%2Bb%3D&se=2 sig=x", "https://h/k?sv=1&sig=***&se=2 sig=x"),
        ("https://token@h/k http://u:p@h/", "https://***@h/k http://***@h/"),
        ("https://a@b@h/k", "https://***@h/k"),
        ("at http://bob:hun/t?r#2@proxy:3128/x.", "at http://***@proxy:3128/x."),
        ("http://bob:it's@h and http://bob:a@b@h", "http://***@h and http://***@h"),
        ("x=https://h/a,https://bob:p/w@h2", "x=https://h/a,https://***@h2"),
        (r"https:\/\/bob:hun\/ter2@h\/k", r"https:\/\/***@h\/k"),
        ("u=https%3A%2F%2Fbob%3Ahun%2Fter2%40h", "u=https%3A%2F%2F***@h"),
        ("u=https%3a//bob%3ahun/ter2%40h", "u=https%3a//***@h"),
        ("key ASIAIOSFODNN7EXAMPLE.", "key ***."),
        (
            "AuthorizationHeaderMalformed: the region is wrong",
            "AuthorizationHeaderMalformed: the region is wrong",
        ),
        ("SignatureDoesNotMatch; s3://bucket/a@b", "SignatureDoesNotMatch; s3://bucket/a@b"),
    ],
)
def test_signatures_headers_and_keys_are_blacked_out(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/key@1:2 and s3://bucket/a:b@c",
        "s3://arn:aws:s3:us-east-1:111122223333:accesspoint/models/k@1",
        "https://h/a:b@c, me@here: no",
        "http://127.0.0.1:9000/b/k@1 http://localhost:9000/b/k@1 http://[::1]:9000/b/k@1",
        "http://store:9000/b/k%40v1",
        "docker://nvcr.io/nvidia/riva:2.19@sha256:0a1b",
        "u=s3%3A%2F%2Fbucket%2Fa%3Ab%40c&v=https%3A%2F%2Fh.example%3A9000%2Fk%40v1",
    ],
)
def test_what_only_looks_like_a_password_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "part", ["://", "://a:", "://a@", "://[/", "://a.", "https://", "%3A%2F%2Fa%3A", "@", ":\\", "%25"]
)
@pytest.mark.parametrize("end", ["", "@", "%40"])
def test_passwords_are_looked_for_in_linear_time(part: str, end: str) -> None:
    began = time.process_time()
    without_userinfo(part * 100_000 + end)
    assert time.process_time() - began < 5


def test_a_password_with_a_slash_in_a_url_survives_nowhere(tmp_path: Path) -> None:
    url = f"https://AKIAIOSFODNN7EXAMPLE:{SECRET}@store:9000"
    done = double("good", f"--endpoint-url={url}", "--json", cwd=tmp_path)
    assert done.returncode == 78
    after = run("riva_stream", "next", cwd=tmp_path)
    texts = {"stderr": done.stderr, "stdout": done.stdout, "next": after.stdout + after.stderr}
    for path in (tmp_path / "state").rglob("*"):
        if path.name == "diagnostics.tar.gz":
            texts |= bundle_of(path)
        elif path.is_file():
            texts[str(path)] = path.read_text()
    assert len(texts) > 10
    assert not [name for name, text in texts.items() if "K7MDENG" in text]
    assert "--endpoint-url=https://store:9000" in texts["run.log"]


@pytest.mark.parametrize(
    "url", ["https://me:hunter22@store:9000/base", "http://hunter22@other", "https://s/?hunter22"]
)
@pytest.mark.parametrize("name", ["endpoint_url", "source_endpoint_url"])
def test_an_endpoint_has_no_password_and_none_is_repeated(name: str, url: str) -> None:
    fields = {"source": "s3://models/x.tar.gz", "bucket": "staging-bucket", "env": "prod"}
    with pytest.raises(ValidationError) as caught:
        StageRequest.model_validate({**fields, "model_name": "m", "model_version": "v1", name: url})
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]
    assert "hunter22" not in str(caught.value)


def test_a_secret_of_digits_leaves_json_whole(tmp_path: Path) -> None:
    secret = {"DB_PASSWORD": str(100 << 20)}  # as many bytes as the plan says
    done = double("good", "--dry-run", "--json", "--log-format=json", cwd=tmp_path, env=secret)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["source_size"] == 100 << 20
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["source_size"] for event in events if "source_size" in event} == {100 << 20}


@pytest.mark.parametrize("where", ["environment", "file"])
@pytest.mark.parametrize("key", ["LEAKACCESSKEY01", SECRET])
def test_an_access_key_of_any_store_survives_nowhere(key: str, where: str, tmp_path: Path) -> None:
    """Not every store's begin with AKIA, and who mixes up the two has the secret there."""
    values = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLE"}
    (tmp_path / ".env").write_text("".join(f"{k}='{v}'\n" for k, v in values.items() if where == "file"))
    flags = ["--run-id=R6", f"--description=of {key}"]
    done = double("secret", *flags, cwd=tmp_path, env=values if where == "environment" else {})
    texts = {"stderr": done.stderr, "stdout": done.stdout}
    for path in (tmp_path / "state").rglob("*"):
        if path.name == "diagnostics.tar.gz":
            texts |= bundle_of(path)
            assert '"AWS_ACCESS_KEY_ID": "***"' in texts["environment.json"]
        elif path.is_file():
            texts[str(path)] = path.read_text()
    assert len(texts) > 10
    assert not [name for name, text in texts.items() if key in text]


@pytest.mark.parametrize("command", ["status", "verify"])
def test_the_secrets_of_the_file_are_known_to_every_command(command: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTHER_PASSWORD=my-secret-pass-1\nAWS_REGION=us-east-2\n")
    done = run("riva_stream", command, "s3://my-secret-pass-1", "--json", cwd=tmp_path)
    assert done.returncode == 78
    assert "names a bucket" in done.stderr
    assert "my-secret-pass-1" not in done.stdout + done.stderr


def test_json_stays_json_whatever_is_redacted() -> None:
    redactor = Redactor(["size", "bucket"], ["models"])
    found = redactor.value({"size": 12, "message": 'bucket="x" s3://models/k', "more": [{"Bucket": None}]})
    assert found == {"size": "***", "message": 'bucket="***" s3://***/k', "more": [{"Bucket": "***"}]}
    event = Warned(code="x", message="in bucket: models")
    assert json.loads(LogJson("R", redactor).format(record_of(event)))["message"] == "in bucket: ***"


# --- what old runs have left


OLD = 3 * 86400
EVENTS = '{"event": "stage_started"}\n'


def an_old_run(state: Path, number: int, *more: str, run_id: str = "") -> Path:
    """What a run of three days ago has left: its folder and its log."""
    name = run_id or f"130-20250101-0000{number:02d}-0a1b2c3d"
    folder, log = state / "runs" / name, state / "logs" / f"{name}.log"
    folder.mkdir(parents=True)
    log.parent.mkdir(exist_ok=True)
    for file in (
        "request.json",
        "events.jsonl",
        "artifact.json",
        ".plan.json.123.partial",
        ".diagnostics.tar.gz.123-0a1b2c3d.partial",
        *more,
    ):
        (folder / file).write_text(EVENTS)
    log.write_text("a line\n")
    grown_old(folder, log)
    return folder


def grown_old(folder: Path, *files: Path) -> None:
    then = time.time() - OLD
    for path in (*folder.iterdir(), *files, folder):
        os.utime(path, (then, then), follow_symlinks=False)


def left(state: Path) -> tuple[set[str], set[str]]:
    """The runs and the logs that are there."""
    return {path.name for path in (state / "runs").iterdir()}, {
        path.stem for path in (state / "logs").iterdir()
    }


def test_all_but_the_newest_runs_are_removed_and_nothing_else(tmp_path: Path) -> None:
    state = tmp_path / "state"
    runs = [an_old_run(state, number) for number in range(8)]
    (runs[1] / "events.jsonl").touch()  # somebody is perhaps at it still
    (runs[2] / "notes.txt").write_text("mine")
    (tmp_path / "precious.json").write_text("mine")
    (runs[3] / "report.json").symlink_to(tmp_path / "precious.json")
    (runs[4] / "journal.json").mkdir()
    elsewhere = an_old_run(tmp_path / "elsewhere", 9)
    linked = state / "runs" / "130-20240101-000000-0a1b2c3d"
    linked.symlink_to(elsewhere, target_is_directory=True)
    named = an_old_run(state, 0, run_id="nightly")
    (state / "logs" / "mine.log").write_text("x")
    for run_folder in (runs[2], runs[3], runs[4]):
        grown_old(run_folder)
    (state / "130.status").write_text(f"status=success\nrun_id={runs[5].name}\n")

    done = double("denied", "--keep-runs=2", cwd=tmp_path)  # however the run itself ends
    assert done.returncode == 77
    (this,) = {path.name for path in (state / "runs").iterdir()} - {
        *(path.name for path in (*runs, linked, named))
    }
    found, logs = left(state)
    # by their order the newest two are this one and the eighth; the status is this run's by now
    kept = {this, runs[7].name, runs[1].name}
    assert logs == {*kept, named.name, "mine"}
    assert found == {*kept, named.name, linked.name, runs[2].name, runs[3].name, runs[4].name}
    assert [path.name for path in runs[2].iterdir()] == ["notes.txt"]
    assert [path.name for path in runs[3].iterdir()] == ["report.json"]
    assert [path.name for path in runs[4].iterdir()] == ["journal.json"]
    assert (tmp_path / "precious.json").read_text() == "mine"
    assert len(list(elsewhere.iterdir())) == 5
    assert "removed the leftovers of 6 old runs" in (state / "logs" / f"{this}.log").read_text()


def test_a_run_that_is_pointed_at_stays(tmp_path: Path) -> None:
    """Settings that are wrong change nothing of what the next step reads."""
    state = tmp_path / "state"
    first, second = an_old_run(state, 1), an_old_run(state, 2)
    (state / "130.status").write_text(f"status=success\nrun_id={first.name}\n")
    (state / "130.json").write_text(json.dumps({"run_id": first.name}))
    done = double("good", "--keep-runs=1", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {first.name, second.name} <= left(state)[0]
    remove_old_runs(state, state / "logs", keep=1, kept_ids={first.name})
    assert first.name in left(state)[0]
    done = double("good", "--keep-runs=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not {first.name, second.name} & left(state)[0]


def test_a_run_that_is_still_at_it_stays(tmp_path: Path) -> None:
    """It may have had nothing to say for days, as one that waits for another."""
    state = tmp_path / "state"
    folder = an_old_run(state, 1)
    file = LogFile(folder / "events.jsonl", Renderer(), pytest.fail)
    assert file.open()
    assert remove_old_runs(state, state / "logs", keep=1, kept_ids=()) == 0
    an_old_run(state, 2)
    assert remove_old_runs(state, state / "logs", keep=1, kept_ids=()) == 0
    file.close()
    assert remove_old_runs(state, state / "logs", keep=1, kept_ids=()) == 1
    assert folder.name not in left(state)[0] | left(state)[1]


@pytest.mark.parametrize(
    ("flags", "variable", "kept"),
    [
        ([], "", 50),
        ([], "2", 2),
        (["--keep-runs", "3"], "2", 3),
        (["--keep-runs=all"], "2", 61),
        ([], "all", 61),
        ([], "0", 61),
    ],
)
def test_how_many_stay_is_a_setting(flags: list[str], variable: str, kept: int, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for number in range(60):
        an_old_run(state, number)
    (tmp_path / ".env").write_text(f"RIVA_STREAM_KEEP_RUNS={variable}\n")
    done = double("good", "--json", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [len(names) for names in left(state)] == [kept, kept]
    warned = "log-settings" in [told["code"] for told in json.loads(done.stdout)["warnings"]]
    assert warned is (variable == "0")


@pytest.mark.parametrize("words", ["0", "\uff19"])
def test_a_number_of_runs_that_is_none_is_refused(words: str, tmp_path: Path) -> None:
    done = double("good", f"--keep-runs={words}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "must be 1 or greater, or 'all'" in done.stderr


def test_what_cannot_be_removed_is_a_warning(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place.source()
    state = tmp_path / "state"
    stuck, gone = an_old_run(state, 1), an_old_run(state, 2)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.parent == stuck:
            raise PermissionError(13, "Permission denied", path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    flags = ["--reference-only", "--keep-runs=1", f"--state-dir={state}", "--json", "--quiet"]
    assert main(["stage", *settings(place), *flags]) == 0
    (warning,) = json.loads(capfd.readouterr().out)["warnings"]
    assert warning["code"] == "record"
    assert str(stuck) in warning["message"]
    assert stuck.exists()
    assert not gone.exists()


async def test_the_settings_that_a_run_leaves_have_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written by the pipeline, which knows no command line."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    signed = "https://b.s3.amazonaws.com/a?X-Amz-Signature=0a1b2c"
    request = asked(model, state_dir=tmp_path, description=f"from {signed} with {SECRET}")
    await riva_stream.stage(request, store=store)
    kept = await asyncio.to_thread(lambda: next(tmp_path.glob("runs/*/request.json")).read_text())
    assert json.loads(kept)["source"] == request.source
    assert "0a1b2c" not in kept
    assert SECRET not in kept


def test_a_source_with_a_signature_in_it_is_refused() -> None:
    with pytest.raises(ValidationError) as error:
        asked(Model("a.tar.gz?X-Amz-Algorithm=x&X-Amz-Signature=0a1b2c", b"", {}))
    assert "has a signature in it" in str(error.value)
    assert "0a1b2c" not in str(error.value)


def test_a_log_may_be_a_pipe_that_somebody_reads(tmp_path: Path) -> None:
    pipe = tmp_path / "run.log"
    os.mkfifo(pipe)
    said: list[str] = []
    log = LogFile(pipe, LogLines("130-x", Redactor()), said.append)
    assert not log.open()  # nobody reads it
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert log.open()
    log.close()
    os.close(reader)


def test_a_line_that_was_cut_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    for text, found in (("", ""), ("whole\n", "whole\n"), ('{"cu', '{"cu\n')):
        path.write_text(text)
        log = LogFile(path, LogLines("130-x", Redactor()), pytest.fail)
        assert log.open()
        log.write("next\n")
        log.close()
        assert path.read_text() == f"{found}next\n"


def test_windows_line_ends_are_line_ends() -> None:
    text = LogLines("130-x", Redactor()).format(record_of("first\r\nsecond\r\n", logging.INFO))
    assert [line.rpartition(" ")[2] for line in text.splitlines()] == ["first", "second"]
