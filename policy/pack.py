"""Pulumi's side of the rules. It is imported in the policy pack's own environment only."""

# pyright: reportMissingImports=false, reportUnknownParameterType=false, reportUntypedFunctionDecorator=false

from collections.abc import Mapping
from typing import Any, cast

import pulumi_policy as pulumi

from policy.resources import Resource
from policy.rules import RULES, Level, Rule

_LEVELS = {
    Level.MANDATORY: pulumi.EnforcementLevel.MANDATORY,
    Level.ADVISORY: pulumi.EnforcementLevel.ADVISORY,
}


def start() -> None:
    """Serve the rules to the engine; does not return before the engine is done."""
    pulumi.PolicyPack("modelport", policies=[_policy(rule) for rule in RULES])


def _policy(rule: Rule) -> Any:
    # A resource that breaks a rule by itself is refused before it is made; the others are judged when all are known.
    if rule.whole_stack:

        def stack(args: Any, report: Any) -> None:
            # A component's outputs repeat what its parts have, secrets too, which the state encrypts and nobody can
            # tell from plain values here.
            parts = [_resource(each) for each in args.resources if not _is_component(each.resource_type)]
            for resource, message in rule.check(parts):
                report(message, resource.urn)

        return pulumi.StackValidationPolicy(
            name=rule.name, description=rule.description, enforcement_level=_LEVELS[rule.level], validate=stack
        )

    def one(args: Any, report: Any) -> None:
        for _, message in rule.check([_resource(args)]):
            report(message)

    return pulumi.ResourceValidationPolicy(
        name=rule.name, description=rule.description, enforcement_level=_LEVELS[rule.level], validate=one
    )


def _is_component(kind: str) -> bool:
    return kind.startswith(("modelport:", "pulumi:pulumi:"))


def _resource(args: Any) -> Resource:
    # The engine shows secrets as plain values here, so that nobody can say which they are.
    return Resource(args.resource_type, args.name, args.urn, _plain(args.props))


def _plain(value: Any) -> Any:
    # What lies behind the views of the SDK, which raise on values that are not known yet; rules recognise those.
    if isinstance(value, (Mapping, list)) or type(value).__name__ == "_ListProxy":
        seen: Any = value
        try:
            behind: Any = seen["__target"]
        except (KeyError, TypeError):
            behind = seen
        if isinstance(behind, Mapping):
            return {key: _plain(item) for key, item in cast(Mapping[str, Any], behind).items()}
        return [_plain(item) for item in behind]
    return value
