"""Version 0.1 of this package beside the one that is tested::

    python -m tests.sim --seeds 3000 --beside tests.sim.older:stage

Its source comes from the repository's history, or from the folder that SIM_OLDER names (the one with
``riva_stream`` in it), and is loaded under another name. 0.1 had no seam for time and threads: where it asks for them, the
source is made to ask the newer version's. What it sees of the store, and how it ends, is told in its own classes.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from functools import cache
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from io import BytesIO
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from riva_stream import clock, errors
from riva_stream.config import StageRequest
from riva_stream.errors import RivaStreamError
from riva_stream.lease import Process
from riva_stream.s3.port import Store

__all__ = ["NotAvailableError", "load", "stage"]

COMMIT = "d3e4b57"
"""Of version 0.1.0."""
FOLDER = "SIM_OLDER"
"""Not one of RIVA_STREAM_*: those are settings of the package, which tests are kept from."""

_NAME = "riva_stream_0_1"
_ROOT = Path(__file__).parents[2]
_SEAM = "_seam"
_REWRITTEN = {
    "from riva_stream": f"from {_NAME}",
    "datetime.now(UTC)": f"{_SEAM}.now()",
    "time.monotonic": f"{_SEAM}.monotonic",
    "time.perf_counter": f"{_SEAM}.monotonic",
    "time.process_time": f"{_SEAM}.cpu",
    "anyio.sleep": f"{_SEAM}.sleep",
    "anyio.to_thread.run_sync": f"{_SEAM}.in_thread",
    # The SDK has one table of signers; that of the newer version stays in it.
    "botocore.auth.AUTH_TYPE_MAPS[SIGNER] = _BodyAuth": "pass",
}


class NotAvailableError(Exception):
    """The source of version 0.1 is not at hand."""


async def stage(request: StageRequest, store: Store) -> Any:
    """One run of version 0.1; what it raises is told in the classes of the version that is tested."""
    old = load()
    known = {name: getattr(request, name) for name in request.model_fields_set if name in old.fields}
    part_size = known.pop("part_size")  # smaller than may be asked for
    asked = old.request(**known).model_copy(update={"part_size": part_size})
    with _in_classes_of(errors, old.errors.RivaStreamError):
        return await old.stage(asked, store=_Port(store, old.errors))


class _Port:
    """The store as version 0.1 knows it; what it has no name for cannot be asked for."""

    def __init__(self, store: Store, their_errors: ModuleType) -> None:
        self._store = store
        self._errors = their_errors

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        async def ask(*args: Any, **options: Any) -> Any:
            with _in_classes_of(self._errors, RivaStreamError):
                return await found(*args, **options)

        return ask

    async def get(self, bucket: str, key: str, *, limit: int) -> bytes | None:
        with _in_classes_of(self._errors, RivaStreamError):
            document = await self._store.get(bucket, key, limit=limit)
        return None if document is None else document.data

    @asynccontextmanager
    async def get_range(self, bucket: str, key: str, **options: Any) -> AsyncIterator[Any]:
        with _in_classes_of(self._errors, RivaStreamError):
            async with self._store.get_range(bucket, key, **options) as reply:
                yield reply


@contextmanager
def _in_classes_of(theirs: Any, ours: type[Exception]) -> Iterator[None]:
    """Tell an error of one version in the class of the same name of the other, or of the nearest that it has."""
    try:
        yield
    except ours as error:
        told: Any = error
        kind = next(
            getattr(theirs, base.__name__) for base in type(error).__mro__ if hasattr(theirs, base.__name__)
        )
        where = {field.name: getattr(told.where, field.name) for field in fields(theirs.Where)}
        made = kind(told.what, where=theirs.Where(**where), hint=told.hint)
        for name in ("action", "resource", "denied_by"):
            if hasattr(made, name):
                setattr(made, name, getattr(told, name))
        raise made from error


# ---- its source, under another name


class _Loaded:
    """What is used of it."""

    def __init__(self) -> None:
        sys.meta_path.insert(0, _Finder(_sources()))
        self.errors = importlib.import_module(f"{_NAME}.errors")
        self.stage: Any = importlib.import_module(f"{_NAME}.pipeline").stage
        self.request: Any = importlib.import_module(f"{_NAME}.config").StageRequest
        self.fields = frozenset(self.request.model_fields)
        theirs: Any = importlib.import_module(f"{_NAME}.state").Process
        # Who it is, and who is dead, the simulation tells the newer version.
        theirs.this = classmethod(lambda cls: cls(**Process.this().model_dump()))
        theirs.is_dead = lambda journaled, here: _process(journaled).is_dead(_process(here))


def _process(theirs: Any) -> Process:
    return Process(**theirs.model_dump())


@cache
def load() -> _Loaded:
    return _Loaded()


def _sources() -> Mapping[str, str]:
    """Path below ``riva_stream`` → source.

    Raises:
        NotAvailableError: there is no such commit here, and no folder was named.
    """
    named = os.environ.get(FOLDER)
    if named is not None:
        folder = Path(named) / "riva_stream"
        found = {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.py")}
        if "__init__.py" not in found:
            raise NotAvailableError(f"{FOLDER}={named} has no riva_stream in it")
        return found
    command = ["git", "-C", str(_ROOT), "archive", COMMIT, "src/riva_stream"]
    try:
        archive = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotAvailableError(
            f"commit {COMMIT} is not in this repository, and {FOLDER} names no folder"
        ) from error
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        return {
            member.name.removeprefix("src/riva_stream/"): tar.extractfile(member).read().decode()  # type: ignore[union-attr]
            for member in tar
            if member.name.endswith(".py")
        }


class _Finder(MetaPathFinder, InspectLoader):
    """Imports it from memory."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != _NAME or not self._file(fullname):
            return None
        return spec_from_loader(fullname, self)

    def _file(self, fullname: str) -> str:
        """Its file, or "" when there is none."""
        path = "/".join(fullname.split(".")[1:])
        files = [f"{path}/__init__.py".lstrip("/"), f"{path}.py"]
        return next((file for file in files if file in self._sources), "")

    def is_package(self, fullname: str) -> bool:
        return self._file(fullname).endswith("__init__.py")

    def get_source(self, fullname: str) -> str:
        source = self._sources[self._file(fullname)]
        for old, new in _REWRITTEN.items():
            source = source.replace(old, new)
        return source

    def get_code(self, fullname: str) -> CodeType:
        return compile(
            self.get_source(fullname), f"{_NAME}/{self._file(fullname)}", "exec", dont_inherit=True
        )

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, _SEAM, clock)
        super().exec_module(module)
