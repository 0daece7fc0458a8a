"""One run id for several runs, as that of a scheduler's job is: what tells them apart is never the run id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from riva_stream import HeldError, RivaStreamError, stage
from riva_stream.retry import RetryPolicy
from riva_stream.s3.errors import refusal
from tests.copying import Watched, asked, assert_staged, made


class Broken(Watched):
    """Answers 500 to Completes, as it is told."""

    dies = False
    """Whether every one of checksums.sha256 fails: the run ends in its commit."""
    broken = ""
    """Of which folder the next one fails, once."""

    async def complete_upload(self, bucket: str, key: str, *args: Any, **given: Any) -> Any:
        fails_once = bool(self.broken) and self.broken in key
        if fails_once:
            self.broken = ""
        if fails_once or (self.dies and key.endswith("checksums.sha256")):
            raise refusal("CompleteMultipartUpload", bucket, key, "InternalError", 500)
        return await super().complete_upload(bucket, key, *args, **given)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RetryPolicy, "delay", lambda policy, attempt, draw: 0.0)


@pytest.mark.parametrize("is_aws", [True, False])
async def test_one_500_for_what_replaces_the_same_bytes_leaves_no_upload(is_aws: bool) -> None:
    store, model = Broken(is_aws=is_aws), made("tar.gz")
    await store.put_source(model.key, model.data)
    given = {"run_id": "nightly", "source_copy": "send"}
    await stage(asked(model, **given), store=store)
    store.broken = "/source/"
    report = await stage(asked(model, force=True, **given), store=store)
    assert report.outcome == "staged"
    assert_staged(store, model)  # no upload is open


async def test_a_retried_job_with_its_own_run_id_too() -> None:
    """Not forced: the first attempt of the job dies in its commit, the scheduler runs it again with the same run id."""
    store, model = Broken(), made("tar.gz")
    store.dies = True
    await store.put_source(model.key, model.data)
    request = asked(model, run_id="job-7", source_copy="send")
    with pytest.raises(RivaStreamError):
        await stage(request, store=store)
    store.dies, store.broken = False, "/source/"
    assert (await stage(request, store=store)).outcome == "staged"
    assert_staged(store, model)


@pytest.mark.parametrize("forced", [True, False])
async def test_old_bytes_do_not_stand_under_a_new_marker(forced: bool) -> None:
    """The ETags are no MD5s, the store keeps no checksum, and the source was replaced by one of the same size."""

    class Kms(Broken):
        """ETags of a KMS-encrypted object are opaque; it keeps no checksum, as with --upload-check md5."""

        def _info(self, found: Any) -> Any:
            info = super()._info(found)
            return replace(info, checksums={}, encryption="aws:kms")

        def _keep(self, there: Any, key: str, data: bytes, etag: str, *args: Any, **more: Any) -> Any:
            return super()._keep(there, key, data, self._numbered()[:32], *args, **more)

    store, old, new = Kms(), made("riva", "old"), made("riva", "new")
    assert (len(old.data), old.key) == (len(new.data), new.key)
    assert old.data != new.data
    given = {"run_id": "nightly", "source_copy": "send", "upload_check": "md5", "sse": "aws:kms"}
    await store.put_source(old.key, old.data)
    store.dies = not forced
    if forced:
        await stage(asked(old, **given), store=store)
    else:  # it dies in its commit
        with pytest.raises(RivaStreamError):
            await stage(asked(old, **given), store=store)
    store.dies, store.broken = False, "/models/"
    await store.put_source(new.key, new.data)
    await stage(asked(new, force=forced, **given), store=store)
    staged = store.staged()
    assert "staging_complete.txt" in staged
    assert staged["models/m0.riva"] == new.data


async def test_runs_of_one_id_do_not_share_their_files(tmp_path: Path) -> None:
    store, model = Watched(), made("tar.gz")
    await store.put_source(model.key, model.data)
    outcomes: list[str] = []

    async def one(version: int) -> None:
        request = asked(model, model_version=f"v{version}", run_id="job-7", state_dir=tmp_path)
        report = await stage(request, store=store)
        outcomes.append(report.outcome)

    async with anyio.create_task_group() as tasks:
        for version in range(8):
            tasks.start_soon(one, version)
    assert outcomes == ["staged"] * 8


async def test_a_second_run_with_the_id_of_a_live_one_leaves_its_copies(tmp_path: Path) -> None:
    class Late(Watched):
        """Another attempt of the same job comes just before the marker."""

        async def complete_upload(self, bucket: str, key: str, *args: Any, **given: Any) -> Any:
            if key.endswith("staging_complete.txt"):
                with pytest.raises(HeldError):
                    await stage(request, store=self)
            return await super().complete_upload(bucket, key, *args, **given)

    store, model = Late(), made("tar.gz")
    await store.put_source(model.key, model.data)
    request = asked(model, run_id="job", state_dir=tmp_path)
    assert (await stage(request, store=store)).outcome == "staged"
    saved = {path.name for path in (tmp_path / "runs" / "job").iterdir()}
    assert {"artifact.json", "checksums.sha256", "plan.json", "upload_manifest.json", "report.json"} <= saved
