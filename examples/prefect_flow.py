"""A catalogue as a Prefect flow: ``python examples/prefect_flow.py examples/catalogue.toml``.

Prefect tries again what a rerun mends, and nothing else; the bucket is the only state, so a worker that is lost costs
nothing but the time.
"""

import asyncio
import sys
from typing import Any

from prefect import flow, get_run_logger, task

from riva_stream import CatalogueReport, stage_all
from riva_stream.catalogue import EntryEnded

RERUN = 75


class RerunError(Exception):
    """Some entries can be resumed."""


class FinalError(Exception):
    """Some entries have failed in a way that no rerun mends."""


def can_be_resumed(_task: Any, _run: Any, state: Any) -> bool:
    """For ``retry_condition_fn``."""
    try:
        state.result()
    except RerunError:
        return True
    except Exception:  # noqa: BLE001 - only one kind is worth a retry
        return False
    return False


@task(retries=3, retry_delay_seconds=60, retry_condition_fn=can_be_resumed)
async def stage_entries(catalogue: str, only: str | None = None) -> CatalogueReport:
    """Stage the entries of a catalogue that ``only`` fits."""
    logger = get_run_logger()

    def observe(event: Any) -> None:
        if isinstance(event, EntryEnded):
            logger.info("%s: %s", event.report.destination, event.report.outcome)

    report = await stage_all(catalogue, observer=observe, only=only)
    if report.exit_code:
        failed = "; ".join(f"{e.destination}: {e.error.message}" for e in report.entries if e.error)
        raise RerunError(failed) if report.exit_code == RERUN else FinalError(failed)
    return report


@flow(name="riva-stream catalogue")
async def stage_catalogue(catalogue: str, only: str | None = None) -> list[str]:
    """Stage a catalogue, and give the places that are staged."""
    report = await stage_entries(catalogue, only)
    return [entry.destination for entry in report.entries]


if __name__ == "__main__":
    asyncio.run(stage_catalogue(sys.argv[1]))
