from modelport.contract import InstanceSettings, ModelFolder, parse_config, render

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
