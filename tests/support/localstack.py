"""LocalStack's S3, the strictest of the three: wrong checksums and sizes are refused, conditional writes work.

It lives in a virtual environment of its own, since its pins contradict ours (an older cryptography, an older
boto3). `ensure_localstack_venv` makes that environment once, under the repository's ignored ``.cache/``::

    python -m tests.support.localstack      # what the test command runs
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.daemons import LOOPBACK, Daemon, ServerStartError, minimal_environment
from tests.support.servers import ProcessServer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "LAUNCHER",
    "REQUIREMENTS",
    "LocalStackServer",
    "LocalStackUnavailableError",
    "ensure_localstack_venv",
]

REQUIREMENTS: Final = (
    "localstack-core[base-runtime]==4.7.0",
    # The releases below are the last that 4.7.0 works with on Python 3.11.
    "pyopenssl<24.3",
    "cryptography<44",
    "service_identity<24.3",
    "cbor2<5.8",
)

_CACHE: Final = Path(__file__).resolve().parents[2] / ".cache"

LAUNCHER: Final = """\
# The package lacks the entry point that localstack.runtime.main looks for: say outright what it would name.
from localstack.aws.components import AwsComponents
from localstack.runtime import runtime
runtime.create_from_environment = lambda: runtime.LocalstackRuntime(AwsComponents())
from localstack.runtime.main import main
main()
"""


class LocalStackUnavailableError(ServerStartError):
    """Its virtual environment could not be made."""


def _base_python() -> str:
    """An interpreter of the version the set of requirements was tried with, else the running one."""
    if sys.version_info[:2] != (3, 11) and (found := shutil.which("python3.11")):
        return found
    return sys.executable


def ensure_localstack_venv(environ: Mapping[str, str] | None = None) -> Path:
    """Make LocalStack's virtual environment unless it is there, and return its interpreter.

    Several processes may call this at once: one builds, the others wait for it. A build that was interrupted is
    begun again. *environ* is what pip sees (index, proxy); the default is this process's own environment.

    Raises:
        LocalStackUnavailableError: it cannot be made here; the message ends with what pip said.
    """
    tag = hashlib.sha256("\n".join(REQUIREMENTS).encode()).hexdigest()[:8]
    folder = _CACHE / f"localstack-{tag}"
    python, complete = folder / "bin" / "python", folder / "complete"
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / f"localstack-{tag}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists() and python.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *REQUIREMENTS]
        for argv in ([_base_python(), "-m", "venv", str(folder)], pip):
            done = subprocess.run(
                argv,
                env=dict(os.environ if environ is None else environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                tail = "\n".join(done.stdout.splitlines()[-15:])
                raise LocalStackUnavailableError(
                    f"LocalStack's environment cannot be made in {folder}:\n{tail}"
                )
        # Written last: a folder without it is a build that was cut short.
        complete.touch()
    return python


class LocalStackServer(ProcessServer):
    """LocalStack with its S3 provider alone. *environ* is for pip, when the environment is still to be made."""

    name = "localstack"
    access_key = "test"  # other names would be read as account numbers
    secret_key = "test"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._environ = environ

    def _launch(self, folder: Path) -> Daemon:
        python = ensure_localstack_venv(self._environ)
        launcher = folder / "launch.py"
        launcher.write_text(LAUNCHER)
        environment = minimal_environment(folder) | {
            "SERVICES": "s3",
            "GATEWAY_LISTEN": f"{LOOPBACK}:{self._port}",
            # Nothing outside loopback: no certificate download, no usage events, no name server of its own.
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DISABLE_EVENTS": "1",
            # Of requests signed in the query it then checks signature and expiry; of others neither.
            "S3_SKIP_SIGNATURE_VALIDATION": "0",
            "DNS_ADDRESS": "0",
        }
        return Daemon([str(python), str(launcher)], env=environment, cwd=folder, log=folder / "log")

    def _start(self) -> None:
        # Before the first attempt: a venv that cannot be made is no reason to try another port.
        ensure_localstack_venv(self._environ)
        super()._start()


if __name__ == "__main__":
    ensure_localstack_venv()
