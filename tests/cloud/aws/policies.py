"""A small evaluator of IAM policies: explicit denials win, then permissions, else no. It refuses what it cannot judge.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def allowed(
    policies: Iterable[Mapping[str, Any]], action: str, resource: str, context: Mapping[str, str] | None = None
) -> bool:
    """Whether the policies of one identity allow an action on a resource.

    Args:
        policies: documents, decoded.
        action: "s3:GetObject".
        resource: its ARN.
        context: condition keys that the request has.
    """
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in listed(policy["Statement"])
        if _applies(statement, action, resource, context or {})
    }
    return "Allow" in effects and "Deny" not in effects


def listed(value: Any) -> list[Any]:
    """A thing or a list of things, as a list."""
    return value if isinstance(value, list) else [value]


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    if set(statement) & {"NotAction", "NotResource", "NotPrincipal"}:
        raise NotImplementedError(statement)
    return (
        any(_like(pattern.lower(), action.lower()) for pattern in listed(statement["Action"]))
        and any(_like(pattern, resource) for pattern in listed(statement["Resource"]))
        and all(
            _holds(operator, key, listed(values), context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _holds(operator: str, key: str, values: list[Any], context: Mapping[str, str]) -> bool:
    found = context.get(key)
    if operator == "Null":
        return (found is None) == (str(values[0]).lower() == "true")
    if found is None:
        return False
    if operator in ("StringEquals", "Bool", "ArnEquals"):
        return found in [str(value).lower() if operator == "Bool" else value for value in values]
    if operator in ("StringLike", "ArnLike"):
        return any(_like(value, found) for value in values)
    raise NotImplementedError(operator)


def _like(pattern: str, text: str) -> bool:
    """IAM's wildcards are * and ?; brackets mean themselves."""
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), text) is not None
