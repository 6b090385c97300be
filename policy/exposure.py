"""Nothing answers the world without authentication."""

from collections.abc import Iterator, Sequence

from policy.resources import Properties, Resource, mapping, sequence

AUTHENTICATED_PATHS = ("/v1",)
"""Paths of the gateway's API that ask for a key; nothing else may be routed to from outside."""

_EVERYBODY = {"allUsers", "allAuthenticatedUsers"}
_WORLD = {"0.0.0.0/0", "::/0"}
_GATEWAY_API = "kubernetes:gateway.networking.k8s.io/"


def no_public_endpoint(resource: Resource, everything: Sequence[Resource]) -> Iterator[str]:
    """What a resource opens to the world."""
    if resource.type.startswith("gcp:"):
        yield from _google(resource)
    elif resource.type.endswith(":Service") and resource.type.startswith("kubernetes:core/"):
        yield from _service(resource)
    elif resource.kind == "Ingress":
        yield "an Ingress cannot say that it asks for a key; make the entry with Gateway and HTTPRoute"
    elif resource.type.startswith(_GATEWAY_API) and resource.kind == "Gateway":
        yield from _gateway(resource, everything)
    elif resource.type.startswith(_GATEWAY_API) and resource.kind.endswith("Route"):
        yield from _route(resource)


def _service(resource: Resource) -> Iterator[str]:
    kind = resource.spec.get("type", "ClusterIP")
    annotations = mapping(resource.metadata.get("annotations"))
    internal = "Internal" in {
        annotations.get("networking.gke.io/load-balancer-type"),
        annotations.get("cloud.google.com/load-balancer-type"),
    }
    if kind == "NodePort" or (kind == "LoadBalancer" and not internal):
        yield f"spec.type: {kind} answers outside of the cluster; use ClusterIP, and the gateway's public entry"
    if resource.spec.get("externalIPs"):
        yield "spec.externalIPs: the service answers outside of the cluster"


def _gateway(resource: Resource, everything: Sequence[Resource]) -> Iterator[str]:
    for listener in map(mapping, sequence(resource.spec.get("listeners"))):
        name = str(listener.get("name"))
        tls = mapping(listener.get("tls"))
        if listener.get("protocol") in {"HTTPS", "TLS"}:
            if not tls.get("certificateRefs") and not mapping(tls.get("options")):
                yield f"listener {name}: has no certificate"
        elif any(_answers(route) for route in everything if _attached(route, resource, name)):
            yield f"listener {name}: answers without TLS; only redirects may be attached to it"


def _attached(route: Resource, gateway: Resource, listener: str) -> bool:
    if not route.type.startswith(_GATEWAY_API) or not route.kind.endswith("Route"):
        return False
    parents = [mapping(parent) for parent in sequence(route.spec.get("parentRefs"))]
    return any(
        parent.get("name") == gateway.object_name
        and parent.get("namespace", route.namespace) == gateway.namespace
        and parent.get("sectionName", listener) == listener
        for parent in parents
    )


def _answers(route: Resource) -> bool:
    return any(mapping(rule).get("backendRefs") for rule in sequence(route.spec.get("rules")))


def _route(resource: Resource) -> Iterator[str]:
    for number, rule in enumerate(map(mapping, sequence(resource.spec.get("rules")))):
        if not rule.get("backendRefs"):
            continue
        matches: list[Properties] = [mapping(match) for match in sequence(rule.get("matches"))] or [{}]
        for match in matches:
            path = str(mapping(match.get("path")).get("value", "/"))
            if not any(path == allowed or path.startswith(f"{allowed}/") for allowed in AUTHENTICATED_PATHS):
                allowed = ", ".join(AUTHENTICATED_PATHS)
                yield f"rule {number}: routes {path}, which asks for no key; route {allowed} only"


def _google(resource: Resource) -> Iterator[str]:
    properties = resource.properties
    members = {properties.get("member"), *sequence(properties.get("members"))}
    for member in sorted(str(member) for member in members & _EVERYBODY):
        yield f"gives {properties.get('role')} to {member}"
    match resource.type:
        case "gcp:container/cluster:Cluster":
            yield from _cluster(properties)
        case "gcp:sql/databaseInstance:DatabaseInstance":
            addresses = mapping(mapping(properties.get("settings")).get("ipConfiguration"))
            if addresses.get("ipv4Enabled", True) is not False:
                yield "settings.ipConfiguration.ipv4Enabled: the database has a public address unless this is false"
        case "gcp:storage/bucket:Bucket":
            if properties.get("publicAccessPrevention") != "enforced":
                yield "publicAccessPrevention: must be enforced"
            if properties.get("uniformBucketLevelAccess") is not True:
                yield "uniformBucketLevelAccess: must be true, or single objects could be made public"
        case "gcp:compute/firewall:Firewall":
            inwards = properties.get("direction", "INGRESS") == "INGRESS" and properties.get("allows")
            if inwards and _WORLD & set(sequence(properties.get("sourceRanges"))):
                yield "sourceRanges: lets the world in"
        case _:
            pass


def _cluster(properties: Properties) -> Iterator[str]:
    private = mapping(properties.get("privateClusterConfig"))
    endpoints = mapping(mapping(properties.get("controlPlaneEndpointsConfig")).get("ipEndpointsConfig"))
    closed = endpoints.get("enabled") is False or private.get("enablePrivateEndpoint") is True
    networks = sequence(mapping(properties.get("masterAuthorizedNetworksConfig")).get("cidrBlocks"))
    ranges = {mapping(block).get("cidrBlock") for block in networks}
    if not closed and (not ranges or ranges & _WORLD):
        yield (
            "the control plane has a public address; use the DNS endpoint "
            "(controlPlaneEndpointsConfig.ipEndpointsConfig.enabled: false), or name the networks that may reach it"
        )
    if private.get("enablePrivateNodes") is not True:
        yield "privateClusterConfig.enablePrivateNodes: nodes have public addresses unless this is true"
