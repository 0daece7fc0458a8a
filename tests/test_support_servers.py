"""The servers start, round-trip an object, and stop without leaving anything."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import botocore.exceptions
import pytest

from tests.support.daemons import Daemon, ServerStartError, minimal_environment
from tests.support.seaweedfs import SeaweedServer
from tests.support.servers import GatewayServer, MotoProcess, S3Server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.localstack import LocalStackServer


def round_trip(server: S3Server) -> None:
    bucket, body = server.new_bucket(), os.urandom(100_000)
    client = server.client()
    client.put_object(Bucket=bucket, Key="a folder/key", Body=body)
    assert client.get_object(Bucket=bucket, Key="a folder/key")["Body"].read() == body


def test_s3_server_round_trips_an_object(s3_server: S3Server) -> None:
    round_trip(s3_server)


def test_localstack_round_trips_an_object_and_refuses_a_wrong_checksum(localstack: LocalStackServer) -> None:
    round_trip(localstack)
    bucket = localstack.new_bucket()
    with pytest.raises(botocore.exceptions.ClientError, match=r"checksum|CRC64NVME"):
        localstack.client().put_object(
            Bucket=bucket, Key="key", Body=b"bytes", ChecksumCRC64NVME="AAAAAAAAAAA="
        )


def test_seaweedfs_round_trips_an_object_and_refuses_a_wrong_checksum(seaweedfs: SeaweedServer) -> None:
    round_trip(seaweedfs)
    bucket = seaweedfs.new_bucket()
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        seaweedfs.client().put_object(
            Bucket=bucket, Key="key", Body=b"bytes", ChecksumCRC64NVME="AAAAAAAAAAA="
        )
    assert caught.value.response["Error"]["Code"] == "BadDigest"


@pytest.mark.parametrize(
    "kind",
    [
        MotoProcess,
        pytest.param(GatewayServer, marks=pytest.mark.gateway),
        pytest.param(SeaweedServer, marks=pytest.mark.seaweedfs),
    ],
)
def test_a_server_process_ends_with_its_context(
    kind: type[MotoProcess | GatewayServer | SeaweedServer],
) -> None:
    with kind() as server:
        round_trip(server)
        pid, folder = server.pid, server._folder
        assert folder is not None
        assert folder.exists()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    with pytest.raises(ServerStartError, match="not running"):
        _ = server.port


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "raise SystemExit('no licence today')"]
    daemon = Daemon(argv, env=minimal_environment(tmp_path), cwd=tmp_path, log=tmp_path / "log")
    with pytest.raises(ServerStartError, match="no licence today"):
        daemon.wait_ready(lambda: False)


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import signal; signal.pause()"]
    daemon = Daemon(argv, env=minimal_environment(tmp_path), cwd=tmp_path, log=tmp_path / "log")
    with pytest.raises(ServerStartError, match="not ready in 0 s"):
        daemon.wait_ready(lambda: False, deadline=0)
    with pytest.raises(ProcessLookupError):
        os.killpg(daemon.pid, 0)


def test_a_process_finds_the_server_by_its_environment(moto: S3Server) -> None:
    environment = moto.environment()
    assert environment["AWS_ENDPOINT_URL"] == moto.endpoint_url
    assert environment["AWS_REGION"] == moto.region


def test_nothing_of_the_callers_aws_settings_is_left() -> None:
    left = {name for name in os.environ if name.startswith(("AWS_", "RIVA_"))}
    assert left == {"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED"}
    assert not os.path.exists(os.environ["AWS_CONFIG_FILE"])  # noqa: PTH110


def test_a_bucket_can_be_removed_with_all_that_is_in_it(s3_server: S3Server) -> None:
    bucket, client = s3_server.new_bucket(), s3_server.client()
    client.put_object(Bucket=bucket, Key="a/b", Body=b"")
    client.create_multipart_upload(Bucket=bucket, Key="open")
    s3_server.remove_bucket(bucket)
    assert bucket not in {entry["Name"] for entry in client.list_buckets()["Buckets"]}
