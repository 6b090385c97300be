"""The Python-based `onnxruntime` backend, in a real Triton."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton_grpc
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from modelport.local import ports, triton

PROJECT = Path(__file__).resolve().parents[2]
ADMIN = {"triton-grpc-protocol-admin": "secret"}


@dataclass
class Server:
    client: triton_grpc.InferenceServerClient
    repository: Path

    def load(self, name: str, graph: onnx.ModelProto, config: str) -> None:
        folder = self.repository / name
        (folder / "1").mkdir(parents=True)
        onnx.save(graph, folder / "1" / "model.onnx")
        (folder / "config.pbtxt").write_text(f'backend: "onnxruntime"\ninstance_group [{{ kind: KIND_CPU }}]\n{config}')
        self.client.load_model(name, headers=ADMIN)

    def infer(self, name: str, output: str = "y", **arrays: np.ndarray) -> np.ndarray:
        inputs: list[triton_grpc.InferInput] = []
        for key, array in arrays.items():
            inputs.append(triton_grpc.InferInput(key, list(array.shape), np_to_triton_dtype(array.dtype)))
            inputs[-1].set_data_from_numpy(array)
        return self.client.infer(name, inputs, outputs=[triton_grpc.InferRequestedOutput(output)]).as_numpy(output)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Triton alone, with the command line of the platform."""
    folder = tmp_path_factory.mktemp("triton")
    environment = triton.ensure_environment(PROJECT, print)
    triton.lay_out(environment, folder)
    numbers = dict(zip(("triton-http", "triton-grpc", "triton-metrics"), ports.free_ports(3), strict=True))
    command = triton.command(environment, folder, numbers, "secret", "backendtest")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=triton.process_environment(environment), stdout=log, stderr=log)
    try:
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{numbers['triton-grpc']}")
        deadline = time.monotonic() + 60
        while True:
            try:
                if client.is_server_live():
                    break
            except InferenceServerException:
                if time.monotonic() > deadline or process.poll() is not None:
                    pytest.fail((folder / "log").read_text())
            time.sleep(0.1)
        yield Server(client, folder / "repository")
    finally:
        process.terminate()
        process.wait(timeout=20)
        triton.remove_shared_memory("backendtest")


def graph(
    nodes: list[onnx.NodeProto],
    x: tuple[int, list[str | int]],
    y: tuple[int, list[str | int]],
    constants: tuple[onnx.TensorProto, ...] = (),
) -> onnx.ModelProto:
    body = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", *x)],
        [helper.make_tensor_value_info("y", *y)],
        list(constants),
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def doubling(x_dims: list[str | int]) -> onnx.ModelProto:
    """y = x + x."""
    float_ = TensorProto.FLOAT
    return graph([helper.make_node("Add", ["x", "x"], ["y"])], (float_, x_dims), (float_, x_dims))


def config(batch: int, dims: str, *, x: str = "x", kind: str = "TYPE_FP32", more: str = "") -> str:
    return (
        f"max_batch_size: {batch}\n"
        f'input [{{ name: "{x}" data_type: {kind} dims: {dims} }}]\n'
        f'output [{{ name: "y" data_type: TYPE_FP32 dims: {dims} }}]\n{more}'
    )


@pytest.mark.parametrize(
    ("name", "dims", "text", "complaint"),
    [
        ("no_batch", ["n", 3, 4], config(0, "[3, 4]"), r"input 'x' is declared \[3, 4\] without a batch dimension"),
        ("fixed_batch", [1, 3, 4], config(8, "[3, 4]"), "first dimension must be dynamic, or max_batch_size 0"),
        ("dtype", ["n", 3, 4], config(8, "[3, 4]", kind="TYPE_FP16"), r"declared TYPE_FP16, but .* tensor\(float\)"),
        ("name", ["n", 3, 4], config(8, "[3, 4]", x="image"), "'image' is not in the graph, which has x"),
        ("dim", ["n", 3, 4], config(8, "[3, 5]"), r"declared \[3, 5\] after the batch .* has \['\?', 3, 4\]"),
        ("freer", ["n", 3, 4], config(8, "[3, -1]"), r"declared \[3, -1\] after the batch .* has \['\?', 3, 4\]"),
    ],
)
def test_a_configuration_that_disagrees_with_its_graph_is_refused(
    server: Server, name: str, dims: list[str | int], text: str, complaint: str
) -> None:
    with pytest.raises(InferenceServerException, match=complaint) as refusal:
        server.load(f"bad_{name}", doubling(dims), text)
    assert "config.pbtxt disagrees with model.onnx" in str(refusal.value)


def test_a_broken_graph_and_a_broken_parameter_are_refused(server: Server) -> None:
    broken = doubling(["n", 2])
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InferenceServerException, match=r"model\.onnx does not load"):
        server.load("broken", broken, config(8, "[2]"))
    threads = 'parameters { key: "intra_op_thread_count" value: { string_value: "all" } }'
    with pytest.raises(InferenceServerException, match="intra_op_thread_count is 'all'"):
        server.load("threads", doubling(["n", 2]), config(8, "[2]", more=threads))


def test_loading_wants_the_admin_key(server: Server) -> None:
    with pytest.raises(InferenceServerException, match=r"(?i)restricted|permission"):
        server.client.load_model("anything")


def test_dynamic_shapes_without_a_batch_dimension(server: Server) -> None:
    server.load("sizes", doubling(["h", "w"]), config(0, "[-1, -1]"))
    for shape in ((2, 3), (700, 900), (1, 1)):
        x = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.testing.assert_array_equal(server.infer("sizes", x=x), x + x)


def test_requests_are_put_together_and_each_gets_its_own_answer(server: Server) -> None:
    batching = "dynamic_batching { preferred_batch_size: [8] max_queue_delay_microseconds: 50000 }"
    server.load("batches", doubling(["n", 3, 2]), config(8, "[3, 2]", more=batching))
    sizes = [1, 2, 1, 3, 1, 1, 2, 1] * 4
    sent = [np.full((size, 3, 2), number, dtype=np.float32) for number, size in enumerate(sizes)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: server.infer("batches", x=x), sent))
    for x, y in zip(sent, answers, strict=True):
        np.testing.assert_array_equal(y, x + x)
    statistics = server.client.get_inference_statistics("batches", headers=ADMIN).model_stats[0]
    assert statistics.inference_count == sum(sizes)
    assert statistics.execution_count < len(sizes), "no two requests were ever run together"


def test_one_bad_request_in_a_batch_does_not_fail_the_others(server: Server) -> None:
    table = helper.make_tensor("table", TensorProto.FLOAT, [10], [float(value) for value in range(10)])
    looking_up = graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        (TensorProto.INT64, ["n", 1]),
        (TensorProto.FLOAT, ["n", 1]),
        (table,),
    )
    text = config(8, "[1]", kind="TYPE_INT64", more="dynamic_batching { max_queue_delay_microseconds: 200000 }")
    server.load("table", looking_up, text)

    def ask(index: int) -> float | str:
        try:
            return float(server.infer("table", x=np.array([[index]], dtype=np.int64))[0, 0])
        except InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [0, 1, 2, 99, 4, 5, 6, 7]))
    assert "out of" in str(answers.pop(3))
    assert answers == [0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0]
