"""Fixtures for tests anywhere in the tree.

Import them in one conftest that is above all that use them: pytest starts a session's fixture once per conftest that
it is imported into.
"""

from collections.abc import Iterator

import pytest

from tests.cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A control plane with the nodes of `tests.cluster.nodes.GKE_NODES`, shared by the session.

    Use namespaces of your own. KubeRay's operator and other definitions are for who needs them to ask for:
    ``control_plane.start_ray_operator()``, ``control_plane.apply_crds(tools.crds("keda"))``; asking twice is fine.
    """
    with ControlPlane() as running:
        yield running
