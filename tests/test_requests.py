"""What requests look like: how the bucket is written, who signs, who pays. Nothing is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from riva_stream.cli.settings.load import load, load_endpoint
from riva_stream.cli.settings.problems import SettingsError
from riva_stream.config import PromoteRequest, StageRequest
from riva_stream.errors import ConfigurationError
from riva_stream.layout import LONGEST_KEY, LONGEST_PLACE, Layout
from riva_stream.pipeline.stores import destination_settings, is_elsewhere, source_settings
from riva_stream.preflight.policy import policy_of
from riva_stream.s3 import PartBody, StoreSettings, WriteOptions, open_store
from tests.test_settings import FLAGS

BODY = PartBody((b"x",), 1, md5="nU5KIPEGhRqEPSvCGGEqyA==")

Act = Callable[[Any], Awaitable[Any]]


class Sent(Exception):  # noqa: N818 - it is no error
    """A request, in place of sending it."""

    def __init__(self, request: Any) -> None:
        super().__init__(request.url)
        self.url: str = request.url
        self.headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }


async def sent(settings: StoreSettings, act: Act) -> Sent:
    def stop(request: Any, **_: Any) -> None:
        raise Sent(request)

    async with open_store(settings, warn=pytest.fail) as store:
        store._client.meta.events.register("before-send.s3", stop)
        with pytest.raises(Sent) as caught:
            await act(store)
        return caught.value


async def read_range(store: Any) -> None:
    async with store.get_range("bucket", "key", first=0, last=1, etag="e", version_id=None):
        pass


ACTS: dict[str, Act] = {
    "head": lambda store: store.head("bucket", "key"),
    "get": lambda store: store.get("bucket", "key", limit=10),
    "range": read_range,
    "list": lambda store: store.list_objects("bucket", "p/"),
    "put": lambda store: store.put("bucket", "key", BODY, content_type="a/b", metadata={}),
    "create": lambda store: store.create_upload(
        "bucket", "key", content_type="a/b", metadata={}, crc64nvme=False
    ),
    "part": lambda store: store.upload_part("bucket", "key", "u", 1, BODY),
    "complete": lambda store: store.complete_upload("bucket", "key", "u", [], crc64nvme=None),
    "parts": lambda store: store.list_parts("bucket", "key", "u"),
    "uploads": lambda store: store.list_uploads("bucket", "p/"),
    "abort": lambda store: store.abort_upload("bucket", "key", "u"),
    "delete": lambda store: store.delete("bucket", "key"),
    "lifecycle": lambda store: store.get_lifecycle("bucket"),
}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def configured(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    (folder / "config").write_text("\n".join(["[default]", *lines]) + "\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))


URL = "http://store.example:9000"


@pytest.mark.parametrize(
    ("addressing", "endpoint", "lines", "host", "path"),
    [
        ("auto", URL, (), "store.example", "/bucket/key"),
        ("auto", URL, ("s3 =", "  addressing_style = virtual"), "bucket.store.example", "/key"),
        ("auto", URL, ("s3 =", "  addressing_style = path"), "store.example", "/bucket/key"),
        ("auto", URL, ("s3 =", "  max_bandwidth = 1MB/s"), "store.example", "/bucket/key"),
        ("auto", None, (f"endpoint_url = {URL}",), "store.example", "/bucket/key"),
        ("auto", None, (), "bucket.s3.us-east-2.amazonaws.com", "/key"),
        ("auto", None, ("s3 =", "  addressing_style = path"), "s3.us-east-2.amazonaws.com", "/bucket/key"),
        ("virtual", URL, (), "bucket.store.example", "/key"),
        ("virtual", URL, ("s3 =", "  addressing_style = path"), "bucket.store.example", "/key"),
        ("path", URL, ("s3 =", "  addressing_style = virtual"), "store.example", "/bucket/key"),
        ("path", None, (), "s3.us-east-2.amazonaws.com", "/bucket/key"),
    ],
)
async def test_where_the_bucket_stands(
    addressing: Any,
    endpoint: str | None,
    lines: tuple[str, ...],
    host: str,
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configured(tmp_path, monkeypatch, *lines)
    settings = StoreSettings(region="us-east-2", endpoint_url=endpoint, addressing=addressing)
    url = urlsplit((await sent(settings, ACTS["head"])).url)
    assert (url.hostname, url.path) == (host, path)


async def test_an_addressing_of_the_configuration_that_is_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(tmp_path, monkeypatch, "s3 =", "  addressing_style = sideways")
    with pytest.raises(ConfigurationError):
        await sent(StoreSettings(region="us-east-2", endpoint_url=URL), ACTS["head"])


@pytest.mark.parametrize(
    ("region", "lines", "signed"),
    [
        ("us-east-2", ("region = eu-west-3",), "us-east-2"),
        (None, ("region = eu-west-3",), "eu-west-3"),
        (None, (), "us-east-1"),
    ],
)
async def test_the_region_of_the_profile_signs_where_none_is_given(
    region: str | None, lines: tuple[str, ...], signed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(tmp_path, monkeypatch, *lines)
    request = await sent(StoreSettings(region=region, endpoint_url=URL), ACTS["head"])
    assert f"/{signed}/s3/" in request.headers["authorization"]


@pytest.mark.parametrize("name", ACTS)
async def test_who_pays_is_said_wherever_there_is_a_place_for_it(name: str) -> None:
    payer = WriteOptions(request_payer="requester")
    request = await sent(StoreSettings(region="us-east-2", endpoint_url=URL, options=payer), ACTS[name])
    assert (request.headers.get("x-amz-request-payer") == "requester") == (name != "lifecycle")
    plain = await sent(StoreSettings(region="us-east-2", endpoint_url=URL), ACTS[name])
    assert "x-amz-request-payer" not in plain.headers


@pytest.mark.parametrize("name", ACTS)
async def test_the_access_control_list_goes_with_what_makes_objects(name: str) -> None:
    settings = StoreSettings(region="us-east-2", endpoint_url=URL, options=WriteOptions(acl="public-read"))
    request = await sent(settings, ACTS[name])
    assert ("x-amz-acl" in request.headers) == (name in {"put", "create"})


@pytest.mark.parametrize("checked", [{}, {"sha256": sha256(b"x").hexdigest()}, {"crc64nvme": "1bGYR3YvpQY="}])
async def test_every_put_has_a_checksum_in_a_header(checked: dict[str, str]) -> None:
    body = PartBody((b"x",), 1, **checked)
    request = await sent(
        StoreSettings(region="us-east-2", endpoint_url=URL),
        lambda store: store.put("bucket", "key", body, content_type="a/b", metadata={}),
    )
    md5 = None if "crc64nvme" in checked else "ndTkYSaMgDT1yFZOFVxnpg=="
    assert request.headers.get("content-md5") == md5
    assert request.headers.get("x-amz-checksum-crc64nvme") == checked.get("crc64nvme")
    assert request.headers["x-amz-content-sha256"] == checked.get("sha256", "UNSIGNED-PAYLOAD")


@pytest.mark.parametrize("name", ["head", "range", "list"])
@pytest.mark.parametrize("keys", ["none", "right", "malformed"])
async def test_a_public_source_is_not_signed_for(
    name: str, keys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keys == "none":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif keys == "malformed":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a\nb")
    request = await sent(StoreSettings(region="us-east-2", endpoint_url=URL, unsigned=True), ACTS[name])
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    "proxy",
    [
        "http://bad host:3128",
        "socks5://h:1080",
        "http://h:port",
        "not a url",
        "http://",
        "ftp://h",
        "h:99999",
        "http://[h",
    ],
)
async def test_a_proxy_that_cannot_be_is_told_at_once(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY")
    with pytest.raises(ConfigurationError) as caught:
        async with open_store(StoreSettings(region="us-east-2", endpoint_url=URL), warn=pytest.fail):
            pass
    assert "HTTP_PROXY" in caught.value.hint
    monkeypatch.setenv("NO_PROXY", "store.example")
    await sent(StoreSettings(region="us-east-2", endpoint_url=URL), ACTS["head"])


@pytest.mark.parametrize("proxy", ["http://h:3128", "https://u:p@h", "h:3128", "//h:3128"])
async def test_a_proxy_that_can_be_is_taken(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.delenv("NO_PROXY")
    await sent(StoreSettings(region="us-east-2", endpoint_url=URL), ACTS["head"])


def test_the_options_of_a_run_reach_its_stores() -> None:
    flags = {"addressing": "virtual", "request_payer": "requester", "no_sign_request": True, "acl": "private"}
    request = load({**FLAGS, **flags}).request
    source, destination = source_settings(request), destination_settings(request)
    assert is_elsewhere(request)
    assert (source.addressing, source.options, source.unsigned) == (
        "virtual",
        WriteOptions(request_payer="requester"),
        True,
    )
    assert destination.addressing == "virtual"
    assert destination.options == WriteOptions(acl="private", request_payer="requester")
    assert not destination.unsigned


@pytest.mark.parametrize("archive", ["GLACIER", "DEEP_ARCHIVE"])
def test_a_storage_class_that_cannot_be_read_is_refused(archive: str) -> None:
    """The marker could not be read back, nor the journal of an interrupted run."""
    assert StageRequest.model_validate({**FLAGS, "storage_class": "GLACIER_IR"}).storage_class
    with pytest.raises(ValidationError):
        StageRequest.model_validate({**FLAGS, "storage_class": archive})


@pytest.mark.parametrize("acl", ["log-delivery-write", "public", "PRIVATE", ""])
def test_an_access_control_list_that_is_none_of_objects_is_refused(acl: str) -> None:
    with pytest.raises(ValidationError):
        StageRequest.model_validate({**FLAGS, "acl": acl})


def test_the_policy_knows_of_them() -> None:
    plain = policy_of(load(FLAGS).request)
    with_all = policy_of(load({**FLAGS, "acl": "private", "no_sign_request": True}).request)
    actions = {grant.Sid: set(grant.Action) for grant in plain.Statement}
    changed = {grant.Sid: set(grant.Action) for grant in with_all.Statement}
    assert actions.keys() - changed.keys() == {"ReadSource", "FindSource"}
    assert changed["WriteStaging"] - actions["WriteStaging"] == {"s3:PutObjectAcl"}


def test_commands_that_look_have_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_STREAM_ADDRESSING", "path")
    reach = load_endpoint({"region": "us-east-2", "request_payer": "requester", "no_sign_request": True})
    assert (reach.addressing, reach.request_payer, reach.no_sign_request) == ("path", "requester", True)
    assert load_endpoint({"region": "us-east-2", "addressing": "virtual"}).addressing == "virtual"


def test_an_addressing_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_STREAM_ADDRESSING", "sideways")
    with pytest.raises(SettingsError) as caught:
        load(FLAGS)
    assert [problem.setting for problem in caught.value.problems] == ["addressing"]
    with pytest.raises(ConfigurationError):
        load_endpoint({"region": "us-east-2"})


ASKED = StageRequest(
    source="s3://models/m.riva", bucket="staging", env="dev", model_name="m0", model_version="v1"
)
PROMOTED = PromoteRequest(source="s3://staging/dev/m0/v1/", to=("s3://staging/prod/m0/v1/",))


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        (ASKED, {"model_version": "../../../evil"}),
        (ASKED, {"model_version": ""}),
        (ASKED, {"modle_version": "v2"}),
        (ASKED, {"lease": -1}),
        (ASKED, {"kms_key_id": "key"}),  # contradicts a field that stays as it is
        (ASKED, {"bucket": "models", "source": "s3://models/dev/m0/v1/m.riva"}),
        (PROMOTED, {"to": ("s3://staging/dev/m0/v1/",)}),
        (PROMOTED, {"memory": 1}),
    ],
)
def test_a_copy_is_validated_like_a_new_request(
    request_: StageRequest | PromoteRequest, wrong: dict[str, Any]
) -> None:
    fields = request_.model_dump(exclude_unset=True) | wrong
    with pytest.raises(ValidationError) as anew:
        type(request_)(**fields)
    with pytest.raises(ValidationError) as copied:
        request_.model_copy(update=wrong)
    assert [error["msg"] for error in copied.value.errors()] == [
        error["msg"] for error in anew.value.errors()
    ]


def test_a_copy_knows_which_fields_were_given() -> None:
    copied = ASKED.model_copy(update={"expect_sha256": "A" * 64, "replicate_to": ["s3://b-b/prod/m/v1"]})
    assert copied.model_fields_set == ASKED.model_fields_set | {"expect_sha256", "replicate_to"}
    assert (copied.expect_sha256, copied.replicate_to) == ("a" * 64, ("s3://b-b/prod/m/v1/",))
    assert ASKED.model_copy() == ASKED.model_copy(update={}) == ASKED


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize(
    "field", ["source", "model_version", "region", "profile", "architecture", "server_path", "state_dir"]
)
def test_an_empty_setting_is_a_mistake(field: str, blank: str) -> None:
    with pytest.raises(ValidationError, match="is empty"):
        ASKED.model_copy(update={field: blank})


def test_so_is_an_empty_entry_of_a_list() -> None:
    for fields in ({"include": ["*.riva", ""]}, {"include": ("",)}, {"replicate_to": [""]}):
        with pytest.raises(ValidationError, match="has an empty entry"):
            ASKED.model_copy(update=fields)
    with pytest.raises(ValidationError, match="has an empty entry"):
        PROMOTED.model_copy(update={"to": ("",)})
    assert ASKED.model_copy(update={"description": ""}).description == ""


@pytest.mark.parametrize("field", ["env", "model_name", "model_version"])
def test_a_place_whose_keys_would_be_too_long_is_refused(field: str) -> None:
    rest = len(ASKED.prefix) - len(getattr(ASKED, field))
    longest = ASKED.model_copy(update={field: "x" * (LONGEST_PLACE - rest)})
    bintarball = longest.model_copy(
        update={"bintarball_reference": True, "server_path": "s3://models/server.tar"}
    )
    for request in (longest, bintarball):
        layout = Layout(request.bucket, request.prefix)
        assert len(layout.checkpoint("f" * 16, 10**9)) <= LONGEST_KEY
        assert all(len(layout.prefix + name) <= LONGEST_KEY for name in layout.documents)
    with pytest.raises(ValidationError, match=f"{field} is too long for S3"):
        ASKED.model_copy(update={field: "x" * (LONGEST_PLACE - rest + 1)})
    levels = [ASKED.env, ASKED.model_name, ASKED.model_version]
    levels[["env", "model_name", "model_version"].index(field)] = "x" * (LONGEST_PLACE - rest + 1)
    with pytest.raises(ValidationError, match="is too long for S3"):
        PROMOTED.model_copy(update={"to": (f"s3://staging/{'/'.join(levels)}/",)})


def test_so_is_an_archive_whose_copy_would_have_too_long_a_key() -> None:
    long = {"source": "s3://models/" + "x" * 300 + ".tar.gz", "model_name": "m" * 750}
    with pytest.raises(ValidationError, match="source has a name that makes a key of more than 1,024 bytes"):
        ASKED.model_copy(update=long)
    assert ASKED.model_copy(update=long | {"reference_only": True}).reference_only
