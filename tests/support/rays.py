"""Ray clusters on loopback, of one node or several: Ray's own cluster utility, which starts real raylets."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemons import LOOPBACK

__all__ = ["ray_cluster"]

_ROOT = Path(__file__).parent.parent.parent
_STORE = 80 << 20
"""Bytes of each node's object store: nothing but reports goes through it."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a node that dies is known to be dead after two seconds, not thirty
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
    "PYTHONPATH": str(_ROOT),
    "no_proxy": "*",
}


@contextmanager
def ray_cluster(*, nodes: int, cores: int) -> Iterator[Any]:
    """A cluster with this process as its driver; gives the ``Cluster``, to which nodes can be added.

    The driver's own node is a further one without cores, so that it survives whatever becomes of the others.
    """
    # The names of its sockets may have no more than 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    # Ray also writes the cluster's address to a folder that it does not make, and that other clusters may share.
    Path(folder, "ray").mkdir()
    environment = _ENVIRONMENT | {"RAY_TMPDIR": folder}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    ray = importlib.import_module("ray")
    cluster = importlib.import_module("ray.cluster_utils").Cluster()
    try:
        cluster.add_node(
            num_cpus=0,
            object_store_memory=_STORE,
            node_ip_address=LOOPBACK,
            include_dashboard=False,
            temp_dir=folder,
        )
        for _ in range(nodes):
            add_node(cluster, cores)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def add_node(cluster: Any, cores: int, **environment: str) -> Any:
    """One more node."""
    return cluster.add_node(
        num_cpus=cores, object_store_memory=_STORE, node_ip_address=LOOPBACK, env_vars=environment or None
    )
