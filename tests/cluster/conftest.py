"""The cluster of one node, for the tests of it."""

import secrets
from collections.abc import Iterator

import pytest

from tests.cluster.client import Client
from tests.cluster.one_node import OneNode, why_not
from tests.cluster.probes import IMAGE
from tools import program
from tools.scratch_image import archive


@pytest.fixture(scope="session")
def machine() -> None:
    """A machine that can have a cluster with real pods."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="package")
def one_node(machine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneNode]:
    """A cluster of one node that has the image of `probes`."""
    with OneNode(tmp_path_factory.mktemp("one-node")) as running:
        running.import_image(archive(program("probe"), IMAGE))
        yield running


@pytest.fixture
def cluster(one_node: OneNode) -> Client:
    """Where `room` is."""
    return one_node


@pytest.fixture
def room(cluster: Client) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")
