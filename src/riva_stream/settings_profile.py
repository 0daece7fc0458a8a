"""The region of a profile, read from the AWS configuration as the SDKs read it, but without loading one.

A region is asked for before the AWS libraries are loaded, and it goes into what is written and into policies: so it is
looked up here, where no flag and no variable has one.
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["region_of_profile"]

_DEFAULT = "default"
_FILES = (("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))


def region_of_profile(profile: str | None, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """The region that a profile has, and the file that it stands in; None where it has none.

    Args:
        profile: its name; None, or one that does not exist: ``default``.
        environment: where AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE are looked for.
    """
    found: dict[str, tuple[str, str] | None] = {}
    for variable, usual in _FILES:
        path = Path(os.path.expandvars(environment.get(variable) or usual)).expanduser()
        for name, region in _regions(path, every=variable != _FILES[0][0]).items():
            if region or name not in found:  # the second file wins, as in the SDKs
                found[name] = (region, str(path)) if region else found.get(name)
    return found[profile] if profile in found else found.get(_DEFAULT)


def _regions(path: Path, *, every: bool) -> dict[str, str]:
    """The profiles of one file; a file that cannot be read is told when the SDK reads it.

    Args:
        path: of the file.
        every: every section is a profile; else those named ``default`` and ``profile NAME``.
    """
    parser = configparser.RawConfigParser()
    with suppress(OSError, UnicodeDecodeError, configparser.Error):
        parser.read(path)
    regions = {}
    for section in parser.sections():
        words: list[str] = []
        with suppress(ValueError):
            words = shlex.split(section)
        name = (
            section
            if every or section == _DEFAULT
            else words[1]
            if words[:1] == ["profile"] and words[1:]
            else ""
        )
        if name:
            regions[name] = parser.get(section, "region", fallback="").strip()
    return regions
