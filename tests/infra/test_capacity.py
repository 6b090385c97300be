"""What fits where, and what is said when it does not."""

from dataclasses import replace

import pytest

from infra.capacity import GIB, Demand, Shape, Use, bytes_of, place, table
from modelport.errors import BadInput

CPU = Shape("cpu", cpus=3.5, memory=12 * GIB, count=2)
L4 = Shape("gpu", cpus=7, memory=26 * GIB, count=2, gpus=1, gpu_memory=22 * GIB, accelerator="nvidia-l4")
SERVE = Demand("polyp_seg", "serve", Use.SERVING, 1, 1, 2 * GIB, key="models/polyp_seg/model.yaml: serve")


def test_a_model_without_gpus_leaves_the_gpu_nodes_alone():
    assert place([SERVE], [L4, CPU])[0].shape is CPU


def test_a_model_without_gpus_takes_a_gpu_node_when_there_is_no_other():
    assert place([SERVE], [L4])[0].shape is L4


def test_a_gpu_model_goes_where_its_gpu_is():
    wants = replace(SERVE, gpus=1, gpu_memory=16 * GIB, accelerator="nvidia-l4")
    assert place([wants], [CPU, L4])[0].shape is L4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cpus": 4.0}, "CPU: 4 wanted, 3.5 allocatable on a node"),
        ({"memory": 13 * GIB}, "memory: 13.0Gi wanted, 12.0Gi allocatable on a node"),
        ({"gpus": 1}, "GPUs: 1 wanted, 0 allocatable on a node"),
        ({"use": Use.TRAINING}, "is not for training"),
        ({"gpus": 1, "accelerator": "nvidia-l4"}, "has no GPU, nvidia-l4 is wanted"),
    ],
)
def test_what_fits_nowhere_is_told_with_the_limit(change, said):
    with pytest.raises(BadInput) as caught:
        place([replace(SERVE, **change)], [replace(CPU, uses=frozenset({"serving"}))])
    assert said in str(caught.value)
    assert "polyp_seg" in str(caught.value)
    assert caught.value.key == "models/polyp_seg/model.yaml: serve"


def test_gpu_memory_is_a_limit_of_its_own():
    with pytest.raises(BadInput, match=r"GPU memory: 40\.0Gi wanted, 22\.0Gi allocatable"):
        place([replace(SERVE, gpus=1, gpu_memory=40 * GIB)], [L4])


def test_too_many_replicas_for_a_pool_are_refused_with_the_numbers():
    with pytest.raises(BadInput) as caught:
        place([replace(SERVE, pods=3, gpus=1)], [L4])
    assert "gpu has at most 2 node(s), and everything that serves needs 3 (3 pods of polyp_seg)" in str(caught.value)


def test_two_models_that_fit_alone_may_not_fit_together():
    big = replace(SERVE, pods=2, gpus=1)
    with pytest.raises(BadInput, match="2 pods of polyp_seg, 1 of dry_wet"):
        place([big, replace(big, model="dry_wet", pods=1)], [L4])


def test_trainings_queue_and_are_judged_one_by_one():
    worker = Demand("a", "train worker", Use.TRAINING, 2, 1, GIB, gpus=1)
    assert len(place([worker, replace(worker, model="b")], [L4])) == 2
    with pytest.raises(BadInput, match="the training of a needs 3"):
        place([replace(worker, pods=3)], [L4])


def test_several_pods_share_a_node():
    assert place([replace(SERVE, pods=6)], [CPU])
    with pytest.raises(BadInput, match="needs 3"):
        place([replace(SERVE, pods=7)], [CPU])


def test_without_nodes_the_remedy_is_clear():
    with pytest.raises(BadInput, match="no nodes for models"):
        place([SERVE], [])


def test_the_table_names_model_part_and_nodes():
    text = table(place([SERVE, replace(SERVE, model="x", gpus=1)], [CPU, replace(L4, spot=True)]))
    lines = text.splitlines()
    assert lines[0].split() == ["model", "part", "pods", "CPU", "memory", "GPU", "nodes"]
    assert lines[1].split() == ["polyp_seg", "serve", "1", "1", "2.0Gi", "-", "cpu"]
    assert lines[2].endswith("1 x nvidia-l4  gpu (spot)")


@pytest.mark.parametrize(("text", "size"), [("512Mi", 512 * 1024**2), ("4Gi", 4 * GIB), ("1Ti", 1024 * GIB)])
def test_quantities(text, size):
    assert bytes_of(text) == size
