"""The drop-in script for RIVA-130, in a repository of its own: what its tests, and those of the next step, start."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAME = "riva-130-downloads-validates-and-stages-model-artifacts-to-s3.sh"


def script_of(repository: Path) -> Path:
    return repository / "scripts" / NAME


def copy_of_the_repository(root: Path) -> Path:
    """What the script needs of this repository, at *root*, without an environment."""
    root.mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "src").symlink_to(ROOT / "src")
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def with_this_interpreter(repository: Path) -> Path:
    """The script with the program behind it: in the place of an environment of its own it finds the tests'."""
    (repository / "scripts/environment").write_text(
        f"ensure_environment() {{ python='{sys.executable}'; }}\n"
    )
    return script_of(repository)
