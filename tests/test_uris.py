"""Access points wherever a bucket may be named: settings, `policy`, positional URIs; one parser for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from riva_stream import ConfigurationError, StageRequest
from riva_stream.inspection.uris import split
from riva_stream.preflight.policy import policy_of
from riva_stream.rights import bucket_arn, object_arn
from riva_stream.uris import access_point_of, is_aws_url, split_uri, valid_bucket
from tests.cli_processes import run

ACCOUNT = "111122223333"
AP = f"arn:aws:s3:us-east-1:{ACCOUNT}:accesspoint/my-ap"
CN = f"arn:aws-cn:s3:cn-north-1:{ACCOUNT}:accesspoint/my-ap"
GOV = f"arn:aws-us-gov:s3:us-gov-west-1:{ACCOUNT}:accesspoint/my-ap"
MULTI = f"arn:aws:s3::{ACCOUNT}:accesspoint/mfzwi23gnjvgw.mrap"
ALIAS = "my-ap-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias"
RIGHT = [AP, CN, GOV]

WRONG = {
    "no resource": f"arn:aws:s3:us-east-1:{ACCOUNT}",
    "no name": f"arn:aws:s3:us-east-1:{ACCOUNT}:accesspoint",
    "empty name": f"arn:aws:s3:us-east-1:{ACCOUNT}:accesspoint/",
    "a name of capitals": f"arn:aws:s3:us-east-1:{ACCOUNT}:accesspoint/My-AP",
    "no account": "arn:aws:s3:us-east-1::accesspoint/my-ap",
    "a short account": "arn:aws:s3:us-east-1:1234:accesspoint/my-ap",
    "no region": f"arn:aws:s3::{ACCOUNT}:accesspoint/my-ap",
    "an odd region": f"arn:aws:s3:moon:{ACCOUNT}:accesspoint/my-ap",
    "another partition's region": f"arn:aws:s3:cn-north-1:{ACCOUNT}:accesspoint/my-ap",
    "no such partition": f"arn:aws2:s3:us-east-1:{ACCOUNT}:accesspoint/my-ap",
    "a bucket's ARN": "arn:aws:s3:::my-bucket",
    "another resource": f"arn:aws:s3:us-east-1:{ACCOUNT}:job/my-ap",
    "another service": f"arn:aws:sqs:us-east-1:{ACCOUNT}:accesspoint/my-ap",
    "an outpost": f"arn:aws:s3-outposts:us-east-1:{ACCOUNT}:outpost/op-01/accesspoint/my-ap",
    "an outpost's bucket": f"arn:aws:s3-outposts:us-east-1:{ACCOUNT}:outpost/op-01/bucket/b",
    "Object Lambda": f"arn:aws:s3-object-lambda:us-east-1:{ACCOUNT}:accesspoint/my-ap",
}


def request(**fields: Any) -> StageRequest:
    given: dict[str, Any] = {
        "source": "s3://models/riva/model.tar.gz",
        "bucket": "staging",
        "env": "prod",
        "model_name": "m",
        "model_version": "v1",
        "region": "us-east-1",
    }
    return StageRequest.model_validate(given | fields)


def flags(**values: str) -> list[str]:
    given = {"source": "s3://models/riva/model.tar.gz", "bucket": "staging", "env": "prod"}
    given |= {"model_name": "m", "model_version": "v1", "region": "us-east-1"} | values
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


# ---- the parser


@pytest.mark.parametrize("arn", [*RIGHT, MULTI])
@pytest.mark.parametrize(
    "key", ["", "model.tar.gz", "riva/models/model.tar.gz", "object/model.tar.gz", "a:b/c"]
)
def test_the_key_follows_the_access_point(arn: str, key: str) -> None:
    assert split_uri(f"s3://{arn}/{key}") == (arn, key)
    assert split_uri(f"s3://{arn.replace('accesspoint/', 'accesspoint:')}/{key}") == (arn, key)
    assert valid_bucket(arn) == arn


@pytest.mark.parametrize("bucket", ["models", "my.models-1", ALIAS, "Old_Style.Bucket"])
def test_a_plain_bucket_ends_at_the_first_slash(bucket: str) -> None:
    assert split_uri(f"s3://{bucket}/a/b") == (bucket, "a/b")
    assert split_uri(f"s3://{bucket}") == (bucket, "")
    assert access_point_of(bucket) is None


@pytest.mark.parametrize("arn", WRONG.values(), ids=WRONG)
def test_a_wrong_arn_is_refused_wherever_it_stands(arn: str) -> None:
    with pytest.raises(ValueError, match="ARN"):
        valid_bucket(arn)
    if arn.endswith(":accesspoint"):
        return  # what follows in a URI is its name
    with pytest.raises(ValueError, match="ARN"):
        split_uri(f"s3://{arn}/model.tar.gz")
    with pytest.raises(ConfigurationError):
        split(f"s3://{arn}/prod/")
    for field, value in (
        ("bucket", arn),
        ("source", f"s3://{arn}/model.tar.gz"),
        ("server_path", f"s3://{arn}/image.tar"),
    ):
        with pytest.raises(ValidationError):
            request(**{field: value})


@pytest.mark.parametrize("bucket", ["mfzwi23gnjvgw.mrap", "my-ap-hr9z--ol-s3", MULTI])
def test_what_cannot_be_a_destination_says_why(bucket: str) -> None:
    with pytest.raises(ValidationError):
        request(bucket=bucket)


def test_a_multi_region_access_point_can_be_read_from() -> None:
    made = request(source=f"s3://{MULTI}/riva/model.tar.gz")
    assert (made.source_bucket, made.source_key) == (MULTI, "riva/model.tar.gz")


@pytest.mark.parametrize("arn", RIGHT)
def test_a_request_knows_what_lies_behind_an_access_point(arn: str) -> None:
    made = request(source=f"s3://{arn}/riva/model.tar.gz", bucket=arn, server_path=f"s3://{arn}/i/image.tar")
    assert (made.source_bucket, made.source_key) == (arn, "riva/model.tar.gz")
    assert (made.server_bucket, made.server_key) == (arn, "i/image.tar")
    assert made.destination == f"s3://{arn}/prod/m/v1/"
    assert split_uri(made.destination) == (arn, "prod/m/v1/")
    with pytest.raises(ValidationError):  # inside its own destination
        request(source=f"s3://{arn}/prod/m/v1/model.tar.gz", bucket=arn)


# ---- policies


@pytest.mark.parametrize("arn", [*RIGHT, MULTI])
def test_iam_names_objects_behind_an_access_point_in_its_own_way(arn: str) -> None:
    assert bucket_arn(arn, "us-east-1") == arn
    assert object_arn(arn, "a/*", "us-east-1") == f"{arn}/object/a/*"


def test_iam_does_not_know_aliases() -> None:
    assert bucket_arn(ALIAS, "us-east-2") == "arn:aws:s3:us-east-2:*:accesspoint/my-ap*"
    assert object_arn(ALIAS, "a/*", None) == "arn:aws:s3:*:*:accesspoint/my-ap*/object/a/*"
    assert bucket_arn(ALIAS, "cn-north-1").startswith("arn:aws-cn:s3:cn-north-1:")


@pytest.mark.parametrize("arn", RIGHT)
def test_the_policy_of_an_access_point(arn: str) -> None:
    made = request(source=f"s3://{arn}/riva/model.tar.gz", bucket=arn)
    resources = {grant.Sid: grant.Resource for grant in policy_of(made).Statement}
    assert resources["ReadSource"] == f"{arn}/object/riva/model.tar.gz"
    assert resources["WriteStaging"] == f"{arn}/object/prod/m/v1/*"
    assert resources["ListStaging"] == resources["FindSource"] == resources["ManageBucket"] == arn


# ---- the command line


@pytest.mark.parametrize("name", ["no name", "no account", "a bucket's ARN", "an outpost"])
def test_policy_prints_nothing_for_a_wrong_arn(name: str, tmp_path: Path) -> None:
    done = run("riva_stream", "policy", *flags(bucket=WRONG[name]), "--json", cwd=tmp_path)
    assert done.returncode == 78
    document = json.loads(done.stdout)
    assert "Statement" not in document
    assert [problem["setting"] for problem in document["error"]["problems"]] == ["bucket"]


@pytest.mark.parametrize("command", ["status", "verify", "ls"])
def test_a_wrong_arn_in_a_positional_uri_is_told(command: str, tmp_path: Path) -> None:
    done = run(
        "riva_stream",
        command,
        f"s3://{WRONG['no account']}/prod/m/v1/",
        "--region",
        "us-east-1",
        cwd=tmp_path,
    )
    assert done.returncode == 78
    assert "ARN" in done.stderr


@pytest.mark.parametrize("uri", [f"s3://{AP}", "deployments", "s3://b/prod/"])
def test_lifecycle_rules_are_a_buckets(uri: str, tmp_path: Path) -> None:
    done = run("riva_stream", "retention", uri, "--region", "us-east-1", cwd=tmp_path)
    assert done.returncode == 78


@pytest.mark.parametrize(
    "host",
    [
        *(
            "s3.amazonaws.com",
            "s3-external-1.amazonaws.com",
            "s3.us-east-2.amazonaws.com",
            "s3-eu-west-1.amazonaws.com",
        ),
        *(
            "s3.dualstack.us-east-2.amazonaws.com",
            "s3-fips.us-gov-west-1.amazonaws.com",
            "s3-accelerate.amazonaws.com",
        ),
        *("s3-fips.dualstack.us-east-1.amazonaws.com", "s3-accelerate.dualstack.amazonaws.com"),
        *(
            "models.s3.us-east-2.amazonaws.com",
            "s3.cn-north-1.amazonaws.com.cn",
            "S3.AP-SOUTHEAST-10.amazonaws.com",
        ),
        *(
            "s3-fips.aws-global.amazonaws.com",
            "s3.dualstack.aws-global.amazonaws.com",
            "s3.us-east-1-fips.amazonaws.com",
        ),
        *("x.mrap.accesspoint.s3-global.amazonaws.com", "x.mrap.accesspoint.s3-global.vpce.amazonaws.com"),
        "models-111122223333.s3-accesspoint.us-east-1.amazonaws.com",
        *(
            "bucket.vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
            "vpce-1a2b-3c4d.s3.us-east-1.vpce.amazonaws.com",
        ),
    ],
)
def test_the_endpoints_of_amazon_s3_are_known(host: str) -> None:
    assert is_aws_url(f"https://{host}")
    assert is_aws_url(f"https://{host}:443/path")


@pytest.mark.parametrize(
    "host",
    [
        *("ec2-3-15-1-2.us-east-2.compute.amazonaws.com", "ec2-3-15-1-2.compute-1.amazonaws.com"),
        *("s3-minio-123.us-east-1.elb.amazonaws.com", "internal-s3.us-east-1.elb.amazonaws.com"),
        *("x1.execute-api.us-east-1.amazonaws.com", "s3.us-east-1.elb.amazonaws.com", "amazonaws.com"),
        *("s3.us-east-1.amazonaws.com.example", "s3.us-east-1.amazonaws.org", "mys3.us-east-1.amazonaws.com"),
        *("a.s3-outposts.us-east-1.amazonaws.com", "s3.localhost.localstack.cloud", "127.0.0.1", ""),
    ],
)
def test_behind_other_names_of_amazon_there_may_be_any_store(host: str) -> None:
    assert not is_aws_url(f"https://{host}:9000")
