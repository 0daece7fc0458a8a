"""With fewer rights than a run would like: what still works, and what the first message says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from riva_stream import AccessDeniedError, ConfigurationError, RivaStreamError, TransientError, stage
from riva_stream.sizes import MIB
from tests.staging import PREFIX, SOURCE_KEY, Place, put_credentials
from tests.support.faultproxy import FaultProxy, Rule
from tests.support.faults import Refuse
from tests.support.servers import GatewayServer


@pytest.fixture
def place(gateway: GatewayServer, gateway_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    put_credentials(gateway, monkeypatch)
    return Place(gateway, gateway_bucket)


def denied(operation: str, key: str = "*") -> Rule:
    return Rule(operation, key=key, occurrence="every", fault=Refuse("AccessDenied"))


UNLISTED = [
    denied("ListObjectsV2"),
    denied("ListMultipartUploads"),
    # without s3:ListBucket S3 answers 403 for what is not there
    Rule("GetObject", key=f"{PREFIX}staging_complete.txt", occurrence="first", fault=Refuse("AccessDenied")),
]


async def test_without_listing_a_staging_still_works_and_says_so(place: Place) -> None:
    archive, data = place.source()
    async with FaultProxy(place.server, UNLISTED) as proxy:
        report = await stage(place.request(endpoint_url=proxy.endpoint_url))
    assert report.outcome == "staged"
    assert {"list", "list-uploads"} <= {warning.code for warning in report.warnings}
    assert any("s3:ListBucketMultipartUploads" in warning.message for warning in report.warnings)
    place.assert_staged(archive, data)


async def test_without_listing_a_forced_staging_leaves_no_stale_model(place: Place) -> None:
    place.source(members=3)
    await stage(place.request())
    archive, data = place.source(2 * MIB, members=1, seed="newer")
    async with FaultProxy(place.server, UNLISTED[:2]) as proxy:
        await stage(place.request(force=True, endpoint_url=proxy.endpoint_url))
    place.assert_staged(archive, data)


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        (denied("CreateMultipartUpload"), "s3:PutObject"),
        (denied("UploadPart", "*/source/*"), "s3:PutObject"),
        (denied("GetObject", SOURCE_KEY), "s3:GetObject"),
        (denied("HeadObject", SOURCE_KEY), "s3:GetObject"),
    ],
    ids=["create", "part", "read", "head"],
)
async def test_a_missing_right_is_named(place: Place, rule: Rule, right: str) -> None:
    place.source()
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(AccessDeniedError) as caught:
            await stage(place.request(endpoint_url=proxy.endpoint_url))
    assert caught.value.exit_code == 77
    assert right in caught.value.hint
    # The code of a HEAD's refusal is its status, which is said already. Names of buckets may have these digits, too.
    assert len(re.findall(r"\b403\b", str(caught.value))) == 1
    assert not [name for name in place.names() if not name.startswith(".riva-stream/")]


async def test_a_dry_run_tries_the_rights(place: Place) -> None:
    place.source()
    async with FaultProxy(place.server, [denied("CreateMultipartUpload")]) as proxy:
        with pytest.raises(AccessDeniedError):
            await stage(place.request(dry_run=True, endpoint_url=proxy.endpoint_url))
    place.assert_nothing_left()


@pytest.mark.parametrize("dry", [True, False], ids=["a dry run", "a run"])
async def test_nothing_is_created_that_could_not_be_aborted(place: Place, dry: bool) -> None:
    place.source()
    async with FaultProxy(place.server, [denied("AbortMultipartUpload")]) as proxy:
        with pytest.raises(AccessDeniedError) as caught:
            await stage(place.request(dry_run=dry, endpoint_url=proxy.endpoint_url))
    assert "s3:AbortMultipartUpload" in caught.value.hint
    place.assert_nothing_left()


async def test_without_the_right_to_delete_a_staging_is_found_all_the_same(place: Place) -> None:
    place.source()
    async with FaultProxy(place.server, [denied("DeleteObject")]) as proxy:
        for outcome in ("staged", "already_staged", "already_staged"):
            report = await stage(place.request(endpoint_url=proxy.endpoint_url))
            assert report.outcome == outcome
            assert "journal" in [warning.code for warning in report.warnings]
    assert (await stage(place.request())).outcome == "already_staged"
    assert not [name for name in place.names() if name.startswith(".riva-stream/")]


async def test_rights_are_tried_before_bytes_are_moved(place: Place) -> None:
    place.source()
    async with FaultProxy(place.server, [denied("CreateMultipartUpload", "*/source/*")]) as proxy:
        with pytest.raises(AccessDeniedError):
            await stage(place.request(endpoint_url=proxy.endpoint_url))
        assert proxy.count("GetObject", SOURCE_KEY) == 0


async def test_the_right_region_is_named(place: Place) -> None:
    place.source()
    wrong = Refuse("PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"})
    rule = Rule("HeadObject", key=SOURCE_KEY, occurrence="every", fault=wrong)
    async with FaultProxy(place.server, [rule]) as proxy:
        with pytest.raises(ConfigurationError, match="eu-west-1") as caught:
            await stage(place.request(endpoint_url=proxy.endpoint_url))
    assert caught.value.exit_code == 78
    assert "--region eu-west-1" in caught.value.hint


class _Names:
    """A resolver that knows none of AWS's names but those that it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *known: str, error: int = socket.EAI_NONAME) -> None:
        self.asked: list[str] = []
        self._known = known
        self._error = error
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self)
        monkeypatch.delenv("AWS_ENDPOINT_URL")

    def __call__(self, host: str, port: int, *args: Any, **more: Any) -> Any:
        self.asked.append(host)
        if any(host.endswith(name) for name in self._known):
            return self._real("127.0.0.1", 9, *args, **more)
        raise socket.gaierror(self._error, "Name or service not known")


async def refused(place: Place, **fields: Any) -> RivaStreamError:
    with pytest.raises(RivaStreamError) as caught:
        await stage(place.request(endpoint_url=None, retries=1, **fields))
    return caught.value


async def test_an_unknown_region_ends_the_run_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    names = _Names(monkeypatch)
    error = await refused(place, region="us-esat-1")
    assert type(error) is ConfigurationError
    assert "unknown region us-esat-1" in error.what
    assert "--region" in error.hint
    assert error.where.attempt == 1
    assert all(".us-esat-1." in name for name in names.asked)
    error = await refused(place, region="us-east-2", source_region="frankfurt")
    assert type(error) is ConfigurationError
    assert "unknown region frankfurt" in error.what
    assert "--source-region" in error.hint


async def test_only_a_region_s_own_name_is_blamed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # of a region that is one, that may pass
        _Names(patch)
        error = await refused(place, region="eu-west-3")
        assert type(error) is TransientError
    with monkeypatch.context() as patch:  # newer than the SDK: where it has an address it is asked
        names = _Names(patch, ".ap-southeast-99.amazonaws.com")
        error = await refused(place, region="ap-southeast-99")
        assert type(error) is TransientError
        assert names.asked
    with (
        monkeypatch.context() as patch
    ):  # the resolver says nothing about the name: it is out of reach itself
        _Names(patch, error=socket.EAI_AGAIN)
        error = await refused(place, region="us-esat-1")
        assert type(error) is TransientError
        assert "DNS" in error.hint
    with monkeypatch.context() as patch:  # another store may call its regions what it likes
        _Names(patch)
        with pytest.raises(TransientError):
            await stage(place.request(endpoint_url="http://store.invalid", region="garage", retries=0))


def test_every_command_says_what_is_wrong_with_the_region(tmp_path: Path) -> None:
    staging = "s3://deployments/prod/m/v1/"
    what = ["--bucket", "deployments", "--env", "prod", "--model-name", "m", "--model-version", "v1"]
    commands = [
        ["stage", "--source", "s3://models/m_v1.tar.gz", *what],
        ["check", "--source", "s3://models/m_v1.tar.gz", *what],
        *([name, staging] for name in ("verify", "status", "gc")),
        *([name, "s3://deployments"] for name in ("ls", "retention")),
    ]
    code = (
        "import json, socket, sys\n"
        "from riva_stream.cli import main\n"
        "def unknown(*_, **__): raise socket.gaierror(socket.EAI_NONAME, 'unknown')\n"
        "socket.getaddrinfo = unknown\n"
        "codes = [main(argv) for argv in json.loads(sys.argv[1])]\n"
        "print('codes', *codes)\n"
    )
    env = {**os.environ, "AWS_REGION": "us-esat-1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True, text=True, check=True, cwd=tmp_path, env=env, timeout=60,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].split() == ["codes", *["78"] * len(commands)], done.stderr
    assert (done.stdout + done.stderr).count("unknown region us-esat-1") == len(commands)
    assert "retry" not in done.stderr


async def test_a_token_that_expires_half_way_is_read_anew(place: Place) -> None:
    archive, data = place.source(12 * MIB)
    rule = Rule("UploadPart", key="*/source/*", occurrence=2, fault=Refuse("ExpiredToken"))
    async with FaultProxy(place.server, [rule]) as proxy:
        report = await stage(place.request(part_size=5 * MIB, endpoint_url=proxy.endpoint_url))
        assert any(record.faults for record in proxy.log)
    assert report.outcome == "staged"
    place.assert_staged(archive, data)


@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
async def test_wrong_credentials_are_told_from_missing_rights(
    place: Place, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The very first answer is one to a HEAD, which has no body to say so."""
    place.source()
    monkeypatch.setenv(variable, "not-the-right-one")
    with pytest.raises(ConfigurationError, match="does not accept the credentials"):
        await stage(place.request())
