"""Rights in the cluster: named verbs on named things, for those who need them."""

from collections.abc import Iterator, Sequence

from policy.resources import Resource, mapping, pod_templates, sequence

_POWERFUL_ROLES = {"cluster-admin", "admin", "edit"}
_POWERFUL_VERBS = {"escalate", "bind", "impersonate"}
_EVERYBODY = {"system:masters", "system:authenticated", "system:unauthenticated", "system:serviceaccounts"}


def named_rights(resource: Resource) -> Iterator[str]:
    """Wildcards, verbs that grant other rights, roles that grant everything, and everybody as a subject."""
    if not resource.type.startswith("kubernetes:rbac.authorization.k8s.io/"):
        return
    for number, rule in enumerate(map(mapping, sequence(resource.properties.get("rules")))):
        for key in ("apiGroups", "resources", "verbs", "nonResourceURLs"):
            if any("*" in str(item) for item in sequence(rule.get(key))):
                yield f"rules[{number}].{key}: name what is needed instead of *"
        for verb in sorted(_POWERFUL_VERBS & set(sequence(rule.get("verbs")))):
            yield f"rules[{number}].verbs: {verb} lets it take any right"
    role = mapping(resource.properties.get("roleRef"))
    if role.get("name") in _POWERFUL_ROLES and role.get("kind") == "ClusterRole":
        yield f"roleRef: {role['name']} is everything; make a role that names what is needed"
    for subject in map(mapping, sequence(resource.properties.get("subjects"))):
        if subject.get("name") in _EVERYBODY:
            yield f"subjects: {subject['name']} is everybody"


def tokens(resource: Resource, everything: Sequence[Resource]) -> Iterator[str]:
    """Pods with a token of the API server but no right there, and accounts that hand it to every pod."""
    if resource.type.startswith("kubernetes:core/") and resource.kind == "ServiceAccount":
        if resource.properties.get("automountServiceAccountToken") is not False:
            yield "automountServiceAccountToken: must be false here; a pod that needs the token says so itself"
        return
    for template in pod_templates(resource):
        account = template.spec.get("serviceAccountName")
        if not account or account == "default":
            yield f"{template.place}: serviceAccountName: give the workload an account of its own"
        elif template.spec.get("automountServiceAccountToken") is not False and not _bound(
            str(account), template.namespace, everything
        ):
            yield (
                f"{template.place}: automountServiceAccountToken: must be false, since no role is bound to {account}"
            )


def _bound(account: str, namespace: str, everything: Sequence[Resource]) -> bool:
    return any(
        subject.get("kind") == "ServiceAccount"
        and subject.get("name") == account
        and subject.get("namespace", binding.namespace) == namespace
        for binding in everything
        if binding.kind in {"RoleBinding", "ClusterRoleBinding"}
        for subject in map(mapping, sequence(binding.properties.get("subjects")))
    )
