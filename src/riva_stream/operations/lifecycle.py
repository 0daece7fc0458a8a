"""Lifecycle rules as the XML that they are: what is ours in it, what will be, and what must not change. No I/O.

A bucket has one document of rules for everybody, and S3 replaces it whole. So nothing here models a rule: elements
that are not ours are carried as they are, with whatever they hold, at the place where they stand. Ours are known by
their ID, which begins with ``riva-stream-``.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from riva_stream.errors import ConfigurationError

__all__ = [
    "DOCUMENTS_BELOW",
    "OURS",
    "SMALL",
    "RuleSpec",
    "difference",
    "id_of",
    "keeps_no_sizes",
    "lacks_sizes",
    "merged",
    "parsed",
    "rules_of",
    "same",
    "structure",
    "to_xml",
    "uses_old_form",
]

OURS = "riva-stream-"
"""How the ID of each of our rules begins."""
SMALL = "-documents"
"""How the ID of a rule for the marker and the documents ends."""
DOCUMENTS_BELOW = 128 << 10
"""Bytes. A marker and the documents around it are smaller; archives and models are larger."""

_SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_ROOT = "LifecycleConfiguration"


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One of our rules. Times are days."""

    id: str
    prefix: str
    smaller_than: int | None = None
    """Bytes: only objects smaller than that."""
    tag: tuple[str, str] | None = None
    days: int | None = None
    noncurrent_days: int | None = None
    abort_days: int | None = None

    def element(self, space: str) -> ET.Element:
        """The rule as XML in the namespace ``space``, its fields in the order in which the SDKs write them."""
        rule = ET.Element(f"{{{space}}}Rule" if space else "Rule")
        if self.days is not None:
            _add(rule, "Expiration/Days", self.days)
        _add(rule, "ID", self.id)
        several = self.smaller_than is not None or self.tag is not None
        among = "Filter/And" if several else "Filter"
        _add(rule, f"{among}/Prefix", self.prefix)
        if self.tag is not None:
            _add(rule, f"{among}/Tag/Key", self.tag[0])
            _add(rule, f"{among}/Tag/Value", self.tag[1])
        if self.smaller_than is not None:
            _add(rule, f"{among}/ObjectSizeLessThan", self.smaller_than)
        _add(rule, "Status", "Enabled")
        if self.noncurrent_days is not None:
            _add(rule, "NoncurrentVersionExpiration/NoncurrentDays", self.noncurrent_days)
        if self.abort_days is not None:
            _add(rule, "AbortIncompleteMultipartUpload/DaysAfterInitiation", self.abort_days)
        return rule


def _add(rule: ET.Element, path: str, value: object) -> None:
    space = rule.tag.removesuffix("Rule")
    element = rule
    for name in path.split("/"):
        found = element.find(space + name)
        element = ET.SubElement(element, space + name) if found is None else found
    element.text = str(value)


def parsed(xml: bytes | None) -> ET.Element:
    """The document; an empty one for None.

    Raises:
        ConfigurationError: this is no such document.
    """
    if xml is None:
        return ET.Element(f"{{{_SPACE}}}{_ROOT}")
    try:
        root = ET.fromstring(xml)  # noqa: S314 - the SDK reads the same bytes with the same parser
    except ET.ParseError as error:
        root, reason = None, f": {error}"
    else:
        reason = ""
    if root is None or _name(root) != _ROOT:
        raise ConfigurationError(
            f"the lifecycle rules of the bucket cannot be read{reason}",
            hint="look at them with: aws s3api get-bucket-lifecycle-configuration --bucket BUCKET",
        )
    return root


def rules_of(root: ET.Element) -> list[ET.Element]:
    """The rules, in their order."""
    return [element for element in root if _name(element) == "Rule"]


def id_of(rule: ET.Element) -> str:
    """The ID of a rule; "" for none."""
    return next((element.text or "" for element in rule if _name(element) == "ID"), "")


def merged(root: ET.Element, wanted: Sequence[RuleSpec], dropped: Iterable[str]) -> ET.Element:
    """The document with our rules as wanted: replaced where they stand, added at the end, dropped by ID."""
    result = copy.deepcopy(root)
    space = result.tag[1:].partition("}")[0] if result.tag.startswith("{") else ""
    new = {spec.id: spec.element(space) for spec in wanted}
    gone = set(dropped) - new.keys()
    for rule in rules_of(result):
        name = id_of(rule)
        if name in gone:
            result.remove(rule)
        elif name in new:
            at, made = list(result).index(rule), new.pop(name)
            # One that says the same already stays as it is written.
            if structure(rule) not in (structure(made), _sizeless(structure(made))):
                result[at] = made
    result.extend(new.values())
    return result


def structure(element: ET.Element) -> Any:
    """What a rule says, as nested dictionaries: names without their namespace, in no order."""
    children = list(element)
    if not children:
        return (element.text or "").strip()
    found: dict[str, list[Any]] = {}
    for child in children:
        found.setdefault(_name(child), []).append(structure(child))
    return {
        name: values[0] if len(values) == 1 else sorted(values, key=str) for name, values in found.items()
    }


def same(one: ET.Element, other: ET.Element) -> bool:
    """Whether two documents have the same rules, in whatever order the store tells them."""
    return _sorted(one) == _sorted(other)


def lacks_sizes(root: ET.Element, wanted: ET.Element) -> bool:
    """Whether the rules in ``root`` are those that were ``wanted``, but that the store has dropped the sizes in them."""
    expected = sorted((_sizeless(structure(rule)) for rule in rules_of(wanted)), key=str)
    return not same(root, wanted) and _sorted(root) == expected


def keeps_no_sizes(root: ET.Element) -> bool:
    """Whether one of our rules for what is small stands there without its size."""
    names = [rule for rule in rules_of(root) if id_of(rule).startswith(OURS) and id_of(rule).endswith(SMALL)]
    return any(structure(rule) == _sizeless(structure(rule)) for rule in names)


def _sizeless(said: Any) -> Any:
    if not isinstance(said, dict):
        return said
    return {name: _sizeless(value) for name, value in said.items() if name != "ObjectSizeLessThan"}


def uses_old_form(root: ET.Element) -> bool:
    """Whether a rule has its prefix beside its filter, a form that S3 does not take together with the new one."""
    return any(_name(element) == "Prefix" for rule in rules_of(root) for element in rule)


def difference(before: ET.Element, after: ET.Element) -> list[str]:
    """Both sets of rules as one listing: ``- `` goes, ``+ `` comes, ``  `` stays."""
    lines = difflib.ndiff(_listing(before), _listing(after))
    return [line for line in lines if not line.startswith("?")]


def to_xml(root: ET.Element) -> bytes:
    """The document as bytes, its namespace as the default one: not every store understands prefixes."""
    written = copy.deepcopy(root)
    space = written.tag.rpartition("}")[0] + "}" if written.tag.startswith("{") else ""
    if space:
        for element in written.iter():
            element.tag = element.tag.removeprefix(space)
    written.set("xmlns", space[1:-1] or _SPACE)
    return bytes(ET.tostring(written, encoding="utf-8", xml_declaration=True))


def _sorted(root: ET.Element) -> list[Any]:
    return sorted((structure(rule) for rule in rules_of(root)), key=str)


def _name(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _listing(root: ET.Element) -> list[str]:
    lines: list[str] = []
    for rule in rules_of(root):
        said = structure(rule)
        fields = said if isinstance(said, Mapping) else {}
        lines.append(f"rule {id_of(rule) or '(without an ID)'}")
        lines += [
            f"  {line}" for name in sorted(fields) if name != "ID" for line in _flat(name, fields[name])
        ]
    return lines


def _flat(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [line for inner in sorted(value) for line in _flat(f"{name}.{inner}", value[inner])]
    if isinstance(value, list):
        return [line for item in value for line in _flat(name, item)]
    return [f"{name}: {value}"]
