"""Where a variable may be set: the environment of the process, then the file of settings.

Every value that the command line takes from a variable comes through here: the fields of a request, by
:class:`~riva_stream.cli.settings.model.Settings`, as well as the log, the state directory and what is needed before
there are settings. At import only the standard library is used, since ``next`` has nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from riva_stream.cli.settings.env_file import EnvFile

__all__ = ["Origin", "Places", "Value", "as_switch"]

_WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def as_switch(text: str) -> bool | None:
    """Whether a switch is on; None for a word that is neither yes nor no."""
    return _WORDS.get(text.strip().lower())


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was found: a variable's name, and its place."""

    variable: str
    place: str


@dataclass(frozen=True, slots=True)
class Value:
    """A variable that is set, and where."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Places:
    """Both places; without a file only the environment."""

    file: EnvFile = field(default_factory=EnvFile)

    @property
    def names(self) -> tuple[str, str]:
        """The names of the places, highest precedence first."""
        return ("the environment", str(self.file.path))

    @property
    def environment(self) -> Mapping[str, str]:
        """The first place by itself, where the place matters."""
        return os.environ

    def find(self, *variables: str) -> Value | None:
        """The first of ``variables`` in the first place that has any of them; an empty value counts as none."""
        return next(
            (
                Value(text, Origin(variable, place))
                for place, values in zip(self.names, (self.environment, self.file.values), strict=True)
                for variable in variables
                if (text := values.get(variable, "").strip())
            ),
            None,
        )

    def word(self, variable: str) -> str:
        """The same for one variable, without its origin; "" for none."""
        found = self.find(variable)
        return found.text if found else ""

    def text(self, variable: str) -> str:
        """The same, but with surrounding blanks, which a path may have."""
        return self.environment.get(variable) or self.file.values.get(variable) or ""
