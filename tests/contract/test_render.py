from modelport.contract import InstanceSettings, ModelFolder, Precision, RenderedRelease, parse_config, render
from modelport.contract.triton import profile_shapes

HASHES = {"preprocess": "a" * 64, "network": "b" * 64, "postprocess": "c" * 64}


def test_unchanged_steps_are_shared_between_releases_and_changed_ones_never(folder: ModelFolder) -> None:
    first = render(folder.triton, InstanceSettings(), HASHES, "spots", "1" * 64)
    second = render(folder.triton, InstanceSettings(), {**HASHES, "network": "d" * 64}, "spots", "2" * 64)
    assert first.name == "spots.111111111111"
    assert first.steps["preprocess"] == second.steps["preprocess"]
    assert first.steps["network"] != second.steps["network"]
    slower = render(folder.triton, InstanceSettings({"network": 2}), HASHES, "spots", "1" * 64)
    assert slower.steps["network"] != first.steps["network"]


def test_the_ensemble_and_the_alias_name_the_immutable_models(folder: ModelFolder) -> None:
    rendered = render(folder.triton, InstanceSettings(), HASHES, "spots", "1" * 64)
    ensemble = parse_config(rendered.configs[rendered.name], "release")
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [
        rendered.steps[step] for step in ("preprocess", "network", "postprocess")
    ]
    assert ensemble.parameters["release"].string_value == "1" * 64
    alias = parse_config(rendered.alias_config, "alias")
    assert alias.name == "spots"
    assert [step.model_name for step in alias.ensemble_scheduling.step] == [rendered.name]
    assert [tensor.name for tensor in alias.output] == ["mask", "coverage"]


def test_instances_and_threads_are_always_written(folder: ModelFolder) -> None:
    settings = InstanceSettings({"network": 3}, threads=2)
    rendered = render(folder.triton, settings, HASHES, "spots", "1" * 64)
    for step, name in rendered.steps.items():
        config = parse_config(rendered.configs[name], name)
        (group,) = config.instance_group
        assert group.count == (3 if step == "network" else 1)
        assert group.kind == group.KIND_CPU
        assert config.parameters["intra_op_thread_count"].string_value == "2"


def test_rendering_leaves_the_folder_s_configuration_alone(folder: ModelFolder) -> None:
    before = folder.triton.ensemble.SerializeToString()
    render(folder.triton, InstanceSettings(), HASHES, "spots", "1" * 64)
    assert folder.triton.ensemble.SerializeToString() == before


def test_each_precision_has_names_of_its_own_and_fp32_those_it_always_had(folder: ModelFolder) -> None:
    def rendered(precision: Precision, *, gpu: bool = False) -> RenderedRelease:
        hashes = {**HASHES, "network": "e" * 64} if precision is Precision.INT8 else HASHES
        settings = InstanceSettings(gpu=gpu, precision=precision)
        return render(folder.triton, settings, hashes, "spots", "1" * 64)

    plain, int8 = rendered(Precision.FP32), rendered(Precision.INT8)
    assert (plain.name, int8.name) == ("spots.111111111111", "spots.111111111111-int8")
    assert plain.steps["network"] != int8.steps["network"]
    assert {step: plain.steps[step] for step in ("preprocess", "postprocess")}.items() <= int8.steps.items()
    assert "optimization" not in "".join([*plain.configs.values(), *int8.configs.values()])

    # On a GPU, TensorRT makes 16 bits of the network where it runs; the steps around it stay what they were.
    fp16, fp32 = rendered(Precision.FP16, gpu=True), rendered(Precision.FP32, gpu=True)
    assert fp16.name == "spots.111111111111-fp16"
    assert [step for step in fp16.steps if fp16.steps[step] != fp32.steps[step]] == ["network"]
    config = parse_config(fp16.configs[fp16.steps["network"]], "network")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    told = dict(accelerator.parameters)
    assert (accelerator.name, told["precision_mode"]) == ("tensorrt", "FP16")
    assert told["trt_engine_cache_enable"] == "true"
    assert told["trt_engine_cache_path"] == f"/tmp/modelport-engines-{'b' * 12}", "ONNX Runtime makes one level of it"
    assert told["trt_timing_cache_path"] == "/tmp"
    assert told["trt_profile_min_shapes"].startswith("input:1x3x")
    assert told["trt_profile_max_shapes"].startswith(f"input:{config.max_batch_size}x3x")


def test_shapes_hold_the_batch_once() -> None:
    tensor = 'name: "input" data_type: TYPE_FP32 dims:'
    batched = parse_config(f"max_batch_size: 4 input [ {{ {tensor} [ 3, 8, 8 ] }} ]", "here")
    assert profile_shapes(batched) == {"min": "input:1x3x8x8", "opt": "input:4x3x8x8", "max": "input:4x3x8x8"}
    whole = parse_config(f"max_batch_size: 0 input [ {{ {tensor} [ 1, 3, 8, 8 ] }} ]", "here")
    assert set(profile_shapes(whole).values()) == {"input:1x3x8x8"}
