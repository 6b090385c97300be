from collections.abc import Callable

import pytest

from modelport.contract import ModelFolder, Tensor, check, check_graph

Edit = Callable[[str, str, str], ModelFolder]
ENSEMBLE = "triton/spots/config.pbtxt"
NETWORK = "triton/network/config.pbtxt"


def test_a_folder_that_keeps_the_contract_has_no_problem(folder: ModelFolder) -> None:
    assert check(folder) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        (NETWORK, "dynamic_batching { }", "instance_group { count: 2 }", "instance_group"),
        (NETWORK, "dynamic_batching { }", "optimization { priority: PRIORITY_MAX }", "optimization"),
        (
            NETWORK,
            "dynamic_batching { }",
            'parameters { key: "intra_op_thread_count" value { string_value: "8" } }',
            "intra_op_thread_count",
        ),
        (NETWORK, '"onnxruntime"', '"python"', "'python'"),
        (NETWORK, "dims: [3, 64, 64]", "dims: [3, 32, 32]", "[-1, 3, 32, 32]"),
        (NETWORK, "max_batch_size: 8", "max_batch_size: 0", "max_batch_size"),
        ("triton/preprocess/config.pbtxt", "TYPE_FP32", "TYPE_FP16", "TYPE_FP16"),
        (ENSEMBLE, "max_batch_size: 0", "max_batch_size: 4", "max_batch_size"),
        (ENSEMBLE, 'model_name: "network"', 'model_name: "net"', "names no step"),
        (ENSEMBLE, 'value: "scaled" } output_map { key: "l', 'value: "x" } output_map { key: "l', "no earlier step"),
        (ENSEMBLE, '"coverage" data_type: TYPE_FP32', '"coverage" data_type: TYPE_FP64', "TYPE_FP64"),
        (ENSEMBLE, 'output { name: "mask" data_type: TYPE_UINT8 dims: [-1, -1] }', "", "segment has it"),
        (ENSEMBLE, 'input_map { key: "image" value: "image" }\n', "", "does not give 'image'"),
        (ENSEMBLE, "platform:", "platfrom:", "not a Triton model configuration"),
        ("train.py", "def train(run)", "def fit(run)", "no function 'train'"),
        ("train.py", "def train(run)", "def train()", "takes no argument"),
        ("pipeline.py", "def pipeline", "def :", "not valid Python"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_told_with_file_and_remedy(edit: Edit, file: str, old: str, new: str, told: str) -> None:
    broken = edit(file, old, new)
    problems = check(broken)
    texts = [str(problem.error()) for problem in problems]
    assert any(told in text for text in texts), texts
    assert all(problem.remedy for problem in problems)
    # The ensemble reads the steps, so a step's mistake may show in either file.
    assert any(problem.file.startswith(str(broken.path)) for problem in problems)


NETWORK_STEP = """step {
    model_name: "network" model_version: -1
    input_map { key: "input" value: "scaled" } output_map { key: "logits" value: "logits" }
  }"""


FURTHER_INPUT = 'input { name: "raw" data_type: TYPE_UINT8 dims: [-1, -1, 3] }\ninput { name: "image"'
POSTPROCESSED = 'input_map { key: "image" value: "image" }\n    output_map { key: "mask"'


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        ([(NETWORK_STEP, NETWORK_STEP + NETWORK_STEP.replace('"logits" }', '"more" }'))], "are preprocess, network, n"),
        ([('input { name: "image"', FURTHER_INPUT)], None),
        (
            [
                ('input { name: "image"', FURTHER_INPUT),
                (POSTPROCESSED, POSTPROCESSED.replace('value: "image"', 'value: "raw"')),
            ],
            "step 'postprocess' input 'image': gets 'raw', which is another tensor",
        ),
    ],
)  # fmt: skip
def test_the_ensemble_computes_what_is_measured(edit: Edit, edits: list[tuple[str, str]], told: str | None) -> None:
    """Triton would load every one of these."""
    changed = [edit(ENSEMBLE, old, new) for old, new in edits][-1]
    texts = [str(problem.error()) for problem in check(changed)]
    assert texts == [] if told is None else told in texts[0], texts


def test_a_fourth_step_is_refused(edit: Edit, folder: ModelFolder) -> None:
    further = folder.path / "triton" / "sharpen" / "config.pbtxt"
    further.parent.mkdir()
    further.write_text((folder.path / "triton/preprocess/config.pbtxt").read_text().replace("image", "pixels"))
    step = 'step { model_name: "sharpen" input_map { key: "pixels" value: "image" } output_map { key: "input" value: '
    changed = edit(ENSEMBLE, "ensemble_scheduling {", f'ensemble_scheduling {{ {step}"sharp" }} }}')
    (problem,) = check(changed)
    assert str(problem.error()).startswith(f"{further}: is no step of task segment")


def test_a_syntax_error_in_a_configuration_names_its_line(edit: Edit) -> None:
    broken = edit(NETWORK, "max_batch_size: 8", "max_batch_size: eight")
    (problem,) = [problem for problem in check(broken) if "network" in problem.file]
    assert problem.line == 2


@pytest.mark.parametrize("missing", ["triton/postprocess/config.pbtxt", ENSEMBLE, "train.py"])
def test_a_missing_file_is_named(folder: ModelFolder, missing: str) -> None:
    (folder.path / missing).unlink()
    assert any(problem.file == str(folder.path / missing) for problem in check(folder))


def test_golden_images_must_exist_decode_and_be_small(folder: ModelFolder) -> None:
    golden = folder.path / "sample" / "golden"
    (golden / "two.png").write_text("text")
    assert any("not a JPEG or PNG" in problem.message for problem in check(folder))
    (golden / "two.png").write_bytes((golden / "one.png").read_bytes() + bytes(300_000))
    assert any("bytes" in problem.message for problem in check(folder))
    for file in golden.iterdir():
        file.unlink()
    assert any("holds no JPEG or PNG" in problem.message for problem in check(folder))


NETWORK_INPUT = Tensor("input", "TYPE_FP32", (-1, 3, 64, 64))
NETWORK_OUTPUT = Tensor("logits", "TYPE_FP32", (-1, 1, 64, 64))


@pytest.mark.parametrize(
    ("graph_input", "told"),
    [
        (NETWORK_INPUT, None),
        (Tensor("input", "TYPE_FP32", (1, 3, 64, 64)), "batch dimension"),
        (Tensor("input", "TYPE_FP32", (3, 64, 64)), "batch dimension"),
        (Tensor("input", "TYPE_FP16", (-1, 3, 64, 64)), "TYPE_FP16"),
        (Tensor("image", "TYPE_FP32", (-1, 3, 64, 64)), "no such input"),
    ],
)
def test_a_configuration_must_agree_with_its_graph(folder: ModelFolder, graph_input: Tensor, told: str | None) -> None:
    problems = check_graph(folder.triton.steps["network"], [graph_input], [NETWORK_OUTPUT], "config.pbtxt")
    assert (not problems) if told is None else any(told in str(problem.error()) for problem in problems)
