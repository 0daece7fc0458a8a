"""What every test gets: no trace of the caller's AWS settings, and S3 servers that start when first asked for."""

from __future__ import annotations

import gc
import importlib.util
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import certifi
import pytest
from botocore.endpoint_provider import EndpointProvider
from xdist.scheduler import LoadFileScheduling

from riva_stream.naming import flags_named
from tests.faults.matrix import ALL
from tests.support.localstack import LocalStackServer
from tests.support.rays import ray_cluster
from tests.support.seaweedfs import SeaweedServer
from tests.support.servers import GatewayServer, MotoServer, S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer

_PREFIXES = ("AWS_", "RIVA_", "NVIDIA_", "MINIO_", "BOTO_", "S3_", "PIP_")
_NAMES = frozenset(
    {
        "ENV",
        "MODEL_VERSION",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_FILE",
    }
)

_SLOW = (
    "tests/faults/",
    "tests/crash/",
    "tests/sim/test_sim.py",
    "tests/test_invariants.py",
    "tests/test_policy.py",
    "tests/test_real_run.py",
    "tests/test_resume.py",
    "tests/test_stage.py",
    "tests/test_check.py",
    "tests/test_verify.py",
    "tests/test_bintarball.py",
    "tests/test_copies_on_servers.py",
    "tests/contract/",
)
_PIECES = 3
"""Into which the largest situation of the fault matrix is cut."""
_SITUATIONS = {target.name: target.situation for target in ALL}
_SERVERS = ("gateway", "localstack", "memory", "moto", "seaweedfs")

_CALLER_ENVIRONMENT = dict(os.environ)
"""As it was before isolation. Only pip gets to see it, when LocalStack's environment is still to be made."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", help="what is long as well: further servers, sizes, counts and faults"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs the suite in the background ignores SIGINT, and so would every process that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing that is collected becomes garbage: looking for some takes a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


class _ByFile(LoadFileScheduling):  # type: ignore[misc]
    """A file stays with one worker, for the sake of what is made once for it.

    What asks one server after the other is cut by servers, so that few workers start each. The fault matrix is cut by situations as
    well: for each of them, a run without faults is counted once.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        _, _, parameters = nodeid.partition("[")
        if file.startswith("tests/faults/") and parameters:
            server, target, *_ = parameters.split(" | ")
            situation = _SITUATIONS[target]
            piece = crc32(nodeid.encode()) % _PIECES if situation == "fresh" else 0
            return f"{file} {server} {situation} {piece}"
        if file.startswith("tests/contract/") or file.endswith("_on_servers.py"):
            return next((name for name in _SERVERS if name in parameters.rstrip("]").split("-")), file)
        return file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that asks for a server is marked with it, so that ``-m 'not localstack'`` can leave it out.

    What is long is left out unless ``--all`` asks for it. Files that take long begin first, so that no worker is left with one.
    """
    items.sort(key=lambda item: not item.nodeid.startswith(_SLOW))  # stable: the rest stays as it is
    if not config.getoption("--all"):
        long = [item for item in items if _is_long(item)]
        items[:] = [item for item in items if not _is_long(item)]
        config.hook.pytest_deselected(items=long)
    for item in items:
        wanted = set(getattr(item, "fixturenames", ()))
        for name in ("gateway", "localstack", "seaweedfs"):
            if name in wanted:
                item.add_marker(name)


def _is_long(item: pytest.Item) -> bool:
    if (elsewhere := item.get_closest_marker("long_but_on")) is not None:
        return item.callspec.params["each_server"] not in elsewhere.args  # type: ignore[attr-defined]
    return item.get_closest_marker("long") is not None


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> None:
    """What is there by now, a million objects of them, stays: no collection of garbage need look at it any more."""
    gc.collect()
    gc.freeze()


def _isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name.upper() in _NAMES:
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    # Files that do not exist: neither the caller's profiles nor an error about an empty file.
    patch.setenv("AWS_CONFIG_FILE", str(home / "no-aws-config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "no-aws-credentials"))
    # Or else a client without credentials would ask 169.254.169.254 for some, and wait.
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The isolation for fixtures that live longer than one test."""
    with pytest.MonkeyPatch.context() as patch:
        _isolate(patch, tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(autouse=True)
def isolated_environment(
    isolated_session: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The isolation for each test, with a home of its own."""
    _isolate(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture
def flags_in_hints() -> Iterator[None]:
    """Hints name flags, as on the command line, though the library is called."""
    with flags_named():
        yield


@pytest.fixture(scope="session", autouse=True)
def few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One authority in place of all: a client reads them whether it uses TLS or not, and there are thousands of clients."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    bundle = tmp_path_factory.mktemp("tls") / "one.pem"
    bundle.write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.httpsession.where", lambda: str(bundle))
        yield


@pytest.fixture(scope="session", autouse=True)
def endpoints_parsed_once() -> Iterator[None]:
    """The SDK parses its rules of endpoints anew for each client: 16 ms of CPU, and there are thousands of clients."""
    made: dict[int, tuple[EndpointProvider, Any]] = {}  # with its rules: what is referred to keeps its id

    def provider(ruleset_data: Any, partition_data: Any) -> EndpointProvider:
        if id(ruleset_data) not in made:
            made[id(ruleset_data)] = (EndpointProvider(ruleset_data, partition_data), ruleset_data)
        return made[id(ruleset_data)][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.regions.EndpointProvider", provider)
        yield


@pytest.fixture(scope="session")
def moto(isolated_session: None) -> Iterator[MotoServer]:
    """moto's S3, in this process."""
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def gateway(isolated_session: None) -> Iterator[GatewayServer]:
    """The JuiceFS gateway, a real server process."""
    with GatewayServer() as server:
        yield server


@pytest.fixture(scope="session")
def localstack(isolated_session: None) -> Iterator[LocalStackServer]:
    """LocalStack's S3, the strict one. Fails, and does not skip, where its environment cannot be made."""
    with LocalStackServer(_CALLER_ENVIRONMENT) as server:
        yield server


@pytest.fixture(scope="session")
def seaweedfs(isolated_session: None) -> Iterator[SeaweedServer]:
    """SeaweedFS, a real server process that behaves much like AWS."""
    with SeaweedServer() as server:
        yield server


# What differs between servers is asked for by the contract, the matrix of faults and the tests that name a server; for the
# rest one is enough, and the other is asked as well with --all.
_TWO = ("moto", pytest.param("gateway", marks=[pytest.mark.gateway, pytest.mark.long]))
_FOUR = (
    "moto",
    pytest.param("gateway", marks=pytest.mark.gateway),
    pytest.param("localstack", marks=pytest.mark.localstack),
    pytest.param("seaweedfs", marks=pytest.mark.seaweedfs),
)


@pytest.fixture(params=_TWO)
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """moto and the gateway, one after the other."""
    return _named(request)


@pytest.fixture(params=_FOUR)
def copying_server(request: pytest.FixtureRequest) -> S3Server:
    """Each server in turn: what copies within it are worth differs."""
    return _named(request)


def _named(request: pytest.FixtureRequest) -> S3Server:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, S3Server)
    return server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """A new bucket on `s3_server`."""
    return s3_server.new_bucket()


@pytest.fixture
def moto_bucket(moto: MotoServer) -> str:
    """A new bucket on moto."""
    return moto.new_bucket()


@pytest.fixture
def gateway_bucket(gateway: GatewayServer) -> str:
    """A new bucket on the gateway."""
    return gateway.new_bucket()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of one node, to which this process is connected."""
    if importlib.util.find_spec("ray") is None:  # not imported: it reads its settings when it is
        pytest.skip("the extra ray is not installed")
    with ray_cluster(nodes=1, cores=4) as cluster:
        yield cluster
