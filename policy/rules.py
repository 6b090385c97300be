"""Every rule, and running them over the resources of a stack."""

from collections.abc import Iterator, Sequence

from policy import access, exposure, secrets, workloads
from policy.resources import Resource, mapping, pod_templates
from policy.rule import Level, Rule, Violation, alone, among

__all__ = ["RULES", "Level", "Resource", "Rule", "Violation", "violations"]

PART_OF = "app.kubernetes.io/part-of"
STACK = "modelport.dev/stack"
OWNER = "modelport.dev/owner"
MODEL = "modelport.dev/model"


def labelled(resource: Resource) -> Iterator[str]:
    """Objects and pods that nobody could find by stack, platform or owner."""
    if not resource.is_kubernetes_object or resource.type.endswith("List"):
        return
    yield from _missing(mapping(resource.metadata.get("labels")), "metadata.labels")
    for template in pod_templates(resource):
        yield from _missing(mapping(template.metadata.get("labels")), f"{template.place}.metadata.labels")


def _missing(labels: object, place: str) -> Iterator[str]:
    found = mapping(labels)
    # Who answers for a model is said on all that the model has; the rest is the platform's.
    wanted = [PART_OF, STACK, *([OWNER] if MODEL in found else [])]
    absent = [name for name in wanted if not found.get(name)]
    if absent:
        yield f"{place}: no {', '.join(absent)}"


RULES: tuple[Rule, ...] = (
    Rule(
        "no-public-endpoint",
        Level.MANDATORY,
        "Nothing answers outside of the cluster but the gateway's API, with TLS and a key.",
        among(exposure.no_public_endpoint),
        whole_stack=True,
    ),
    Rule("image-tag", Level.MANDATORY, "Images have a tag that is not latest.", alone(workloads.image_tags)),
    Rule(
        "image-digest",
        Level.ADVISORY,
        "Images are pinned by digest; those that are not yet are listed.",
        alone(workloads.image_digests),
    ),
    Rule(
        "requests-and-limits",
        Level.MANDATORY,
        "Every container asks for processor and memory, and has limits of both.",
        alone(workloads.requests_and_limits),
    ),
    Rule(
        "restricted-pods",
        Level.MANDATORY,
        "Pods keep the restricted Pod Security Standard, with root file systems that are read-only.",
        alone(workloads.restricted),
    ),
    Rule(
        "no-plain-secret",
        Level.MANDATORY,
        "Secrets are in Secrets, and secret in the state; not in environments, ConfigMaps or command lines.",
        alone(secrets.no_plain_secrets),
    ),
    Rule(
        "no-leaked-secret",
        Level.MANDATORY,
        "What is secret in one place is plain in no other.",
        secrets.no_leaks,
        whole_stack=True,
    ),
    Rule(
        "labels",
        Level.MANDATORY,
        "Objects and pods say which stack, platform and owner they belong to.",
        alone(labelled),
    ),
    Rule(
        "named-rights",
        Level.MANDATORY,
        "Roles name verbs and resources; nobody gets cluster-admin.",
        alone(access.named_rights),
    ),
    Rule(
        "api-tokens",
        Level.MANDATORY,
        "Workloads have accounts of their own, and a token of the API server only with a role bound to them.",
        among(access.tokens),
        whole_stack=True,
    ),
)


def violations(resources: Sequence[Resource], rules: Sequence[Rule] = RULES) -> list[Violation]:
    """Everything that the resources of a stack break, by rule."""
    return [Violation(rule.name, resource, message) for rule in rules for resource, message in rule.check(resources)]
