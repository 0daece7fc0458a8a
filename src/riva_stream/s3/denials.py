"""A missing permission: which one, as far as the store says."""

from __future__ import annotations

import re

from riva_stream.errors import AccessDeniedError, Where
from riva_stream.rights import KMS_ACTIONS, describe_rights

__all__ = ["denied"]

# "User: ARN is not authorized to perform: s3:PutObject on resource: "ARN" because no identity-based policy allows
# the s3:PutObject action", or "... with an explicit deny in a service control policy" (IAM User Guide, "Troubleshoot
# access denied error messages").
_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")
_RESOURCE = re.compile(r"on resource: \"?(arn:[^\s\"]+)")
_DENY = re.compile(r"with an explicit deny in (an? [\w -]+)")


def denied(code: str, message: str, place: Where) -> AccessDeniedError:
    """The error for a missing permission: as named by the store, or else what the request is known to need."""
    action, resource, denied_by = (
        found[1] if (found := pattern.search(message)) else "" for pattern in (_ACTION, _RESOURCE, _DENY)
    )
    if not action and "kms" in message.lower():
        action = KMS_ACTIONS[0]
    if action.startswith("kms:"):
        right = f"{' and '.join(KMS_ACTIONS)} on {resource or 'the key of the bucket'}"
    else:
        right = describe_rights(place.operation)
    hint = f"the credentials need {right}"
    if denied_by:
        hint = f"an explicit deny in {denied_by} overrides every allow; contact that policy's owner"
    return AccessDeniedError(
        f"access denied: {message or code}",
        where=place,
        hint=hint,
        action=action,
        resource=resource,
        denied_by=denied_by,
        says=message or code,
    )
