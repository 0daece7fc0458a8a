"""The examples are true: they are read by what they are written for, and run where that is installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from riva_stream import load_catalogue
from riva_stream.catalogue.plan import expand, jobs_of, prepare
from riva_stream.cli.app import build_parser
from riva_stream.config import StageRequest
from riva_stream.sizes import MIB
from tests.cli_processes import run
from tests.staging import Place, put_credentials, tar_gz
from tests.support.servers import MotoServer

EXAMPLES = Path(__file__).parent.parent / "examples"
KUBERNETES = EXAMPLES / "kubernetes"
DOCUMENTS = {
    document["kind"]: document for document in yaml.safe_load_all((KUBERNETES / "job.yaml").read_text())
}


async def test_the_catalogue_is_one() -> None:
    async def listed(request: StageRequest) -> list[str]:
        return ["conformer/conformer-ctc-de-de-deployable_v3.tar.gz"]

    loaded = load_catalogue(EXAMPLES / "catalogue.toml")
    plan = await expand(loaded, prepare(loaded), listed)
    places = [len(job) for job in jobs_of([request for request, _ in plan.requests])]
    assert sorted(places) == [1, 4, 4]
    assert "s3://deployments-dev/dev/conformer-ctc-de-de/v3/" in [r.destination for r, _ in plan.requests]


def test_the_job_runs_a_command_that_there_is_within_its_memory(tmp_path: Path) -> None:
    pod = DOCUMENTS["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    args = build_parser("riva-stream").parse_args(container["args"])
    (tmp_path / args.catalogue.name).write_text(DOCUMENTS["ConfigMap"]["data"][args.catalogue.name])
    loaded = load_catalogue(tmp_path / args.catalogue.name)
    most = max(wish.fields.get("memory", 256 * MIB) for wish in prepare(loaded))
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * MIB
    # docs/memory.md: an idle process of ours has 92 MiB
    assert args.at_once * most + 92 * MIB <= limit
    assert str(args.catalogue.parent) in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_job_is_not_tried_again_after_what_is_final() -> None:
    rules = DOCUMENTS["Job"]["spec"]["podFailurePolicy"]["rules"]
    final = {code for rule in rules if rule["action"] == "FailJob" for code in rule["onExitCodes"]["values"]}
    table = (EXAMPLES.parent / "README.md").read_text()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \| .+? \|", table, re.MULTILINE)}
    assert codes - final == {0, 75}


def test_the_policy_is_the_one_that_is_printed() -> None:
    where = ["--source", "s3://models/*", "--bucket", "deployments", "--region", "us-east-2", "--env", "prod"]
    done = run(
        "riva_stream", "policy", "--scope", "bucket", *where, "--model-name", "any", "--model-version", "any"
    )
    assert json.loads(done.stdout) == json.loads((KUBERNETES / "policy.json").read_text())


def made_up_prefect() -> ModuleType:
    """What the flow takes of Prefect, where that is not installed: decorators that decorate nothing."""

    def decorator(*args: Any, **options: Any) -> Callable[[Any], Any]:
        return lambda function: function

    prefect = ModuleType("prefect")
    vars(prefect).update(flow=decorator, task=decorator, get_run_logger=lambda: logging.getLogger("flow"))
    return prefect


async def test_the_flow_stages_a_catalogue(
    moto: MotoServer, moto_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "prefect", made_up_prefect())
    monkeypatch.chdir(tmp_path)
    put_credentials(moto, monkeypatch)
    spec = importlib.util.spec_from_file_location("prefect_flow", EXAMPLES / "prefect_flow.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    place = Place(moto, moto_bucket)
    place.put("x_v1.tar.gz", tar_gz([("x.riva", b"weights")]))
    entry = {"source": f"s3://{moto_bucket}/x_v1.tar.gz", "pattern": "{model_name}_{model_version}.tar.gz"}
    defaults = {"bucket": moto_bucket, "env": "dev", "region": moto.region, "endpoint_url": moto.endpoint_url}
    catalogue = tmp_path / "c.json"
    catalogue.write_text(json.dumps({"defaults": defaults, "staging": [entry]}))
    assert await example.stage_catalogue(str(catalogue)) == [f"s3://{moto_bucket}/dev/x/v1/"]
    assert "staging_complete.txt" in place.names("dev/x/v1/")
    catalogue.write_text(json.dumps({"defaults": defaults | {"bucket": "none-such"}, "staging": [entry]}))
    with pytest.raises(example.FinalError):
        await example.stage_catalogue(str(catalogue))
