"""Who may do what on the object store: SeaweedFS itself is asked."""

import pytest

from modelport.connection import Connection, Role
from modelport.errors import Refused
from modelport.objects import ObjectStore

PREFIXES = ("staging", "checkpoints", "datasets", "heldout", "releases", "promotions", "replicas", "records")
MAY_READ = {
    Role.TRAINER: {"staging", "checkpoints", "datasets"},
    Role.PROMOTER: {"staging", "datasets", "heldout", "releases", "promotions", "replicas"},
    Role.SERVER: {"releases", "promotions", "replicas", "records"},
}
MAY_WRITE = {
    Role.TRAINER: {"staging", "checkpoints"},
    Role.PROMOTER: {"datasets", "heldout", "releases", "promotions"},
    Role.SERVER: {"replicas", "records"},
}
WRITERS = {prefix: role for role in Role for prefix in MAY_WRITE[role]}


@pytest.fixture(scope="module")
def filled(s3_connection: Connection) -> Connection:
    """One object under every prefix."""
    for prefix, role in WRITERS.items():
        ObjectStore.connect(s3_connection, role).put(f"{prefix}/rights/there", prefix.encode())
    return s3_connection


def allowed(action: object) -> bool:
    try:
        action()  # type: ignore[operator]
    except Refused:
        return False
    return True


@pytest.mark.parametrize("role", list(Role))
def test_an_identity_reads_lists_and_writes_its_prefixes_and_no_others(filled: Connection, role: Role) -> None:
    store = ObjectStore.connect(filled, role)
    assert {p for p in PREFIXES if allowed(lambda p=p: store.get(f"{p}/rights/there"))} == MAY_READ[role]
    assert {p for p in PREFIXES if allowed(lambda p=p: list(store.list(f"{p}/rights/")))} == MAY_READ[role]
    assert {p for p in PREFIXES if allowed(lambda p=p: store.put(f"{p}/rights/{role}", b""))} == MAY_WRITE[role]
    assert {p for p in PREFIXES if allowed(lambda p=p: store.delete(f"{p}/rights/{role}"))} == MAY_WRITE[role]


@pytest.mark.parametrize("role", list(Role))
def test_nobody_sees_the_whole_bucket_or_a_neighbour_of_his_prefix(filled: Connection, role: Role) -> None:
    store = ObjectStore.connect(filled, role)
    assert not allowed(lambda: list(store.list("")))
    for prefix in MAY_WRITE[role]:
        assert not allowed(lambda prefix=prefix: store.put(f"{prefix}-other/x", b""))
