"""``check``: what the answer to a HEAD of a bucket says about its region and about the clocks."""

from __future__ import annotations

from typing import Any

from riva_stream.preflight.report import CheckRecord, failed, passed, warned
from riva_stream.s3.look import BucketLook

__all__ = ["clock_record", "region_record"]

_WARN_SECONDS = 60.0
_FAIL_SECONDS = 900.0
"""S3 refuses requests that are signed for another quarter of an hour."""
_REDIRECTED = (301, 307)
_BAD_REQUEST = 400
_MISSING = 404
_DENIED = (401, 403)
_SOURCE_MISSING = 66


def region_record(component: str, bucket: str, found: BucketLook, region: str | None) -> CheckRecord:
    """Whether the bucket is there and lies where it is looked for."""
    flag = "--source-region" if component == "source-region" else "--region"
    facts: dict[str, Any] = {
        "bucket": bucket,
        "region": found.region,
        "configured": region,
        "status": found.status,
    }
    if found.status == _MISSING:
        is_source = component == "source-region"
        return failed(
            component,
            f"there is no bucket {bucket}",
            exit_code=_SOURCE_MISSING if is_source else 78,
            fix="check the source URI and its endpoint"
            if is_source
            else "check the bucket's name and the endpoint",
            **facts,
        )
    elsewhere = bool(found.region) and found.region != region
    # 400 is also the answer to a token that has expired, which the other checks tell better.
    if found.status in _REDIRECTED or (found.status == _BAD_REQUEST and elsewhere):
        where = found.region or "another region"
        return failed(
            component,
            f"wrong region: {bucket} lies in {where}, not in {region}",
            fix=f"pass {flag} {found.region}" if found.region else f"check {flag}",
            **facts,
        )
    if elsewhere:
        return warned(
            component,
            f"{bucket} lies in {found.region}, not in {region}; the store answers all the same",
            fix=f"pass {flag} {found.region}",
            **facts,
        )
    if found.region:
        return passed(component, f"{bucket} lies in {found.region}", **facts)
    if found.status in _DENIED:
        return passed(component, f"{bucket} is there; its region may not be asked for", **facts)
    return passed(component, f"{bucket} is there; the store names no region", **facts)


def clock_record(found: BucketLook) -> CheckRecord:
    """How far this host's clock is from the store's."""
    if found.store_time is None:
        return warned("clock", "the store's answer tells no time, so the clock cannot be compared")
    # The answer's time is cut to whole seconds: on average it is half a second later than it says.
    offset = (found.local_time - found.store_time).total_seconds() - 0.5
    ahead = "ahead of" if offset > 0 else "behind"
    facts: dict[str, Any] = {"offset_seconds": round(offset, 1)}
    said = f"{abs(offset):.0f} s {ahead} the store's"
    if abs(offset) <= _WARN_SECONDS:
        return passed("clock", f"agrees with the store's to {max(abs(offset), 1):.0f} s", **facts)
    fix = "set this host's clock (timedatectl set-ntp true, or chronyc makestep)"
    if abs(offset) <= _FAIL_SECONDS:
        return warned("clock", f"this host's clock is {said}", fix=fix, **facts)
    return failed(
        "clock",
        f"this host's clock is {said}; S3 refuses what is signed more than 15 minutes off",
        fix=fix,
        **facts,
    )
