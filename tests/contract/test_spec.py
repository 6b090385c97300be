import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelport.contract import (
    ModelFolder,
    ModelSpec,
    apply_overrides,
    check,
    discover,
    find_model,
    json_schema,
    load_spec,
    parse_spec,
)
from modelport.errors import BadInput

Edit = Callable[[str, str, str], ModelFolder]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "told"),
    [
        ("owner: tests", "owner: tests\nowners: more", 4, "owners", "not a known key"),
        ("  minimum: 0.5", "  minimum: 0.5\n  minimun: 0.6", 19, "gate.minimun", "not a known key"),
        ("owner: tests\n", "", 1, "owner", "is missing"),
        ("  minimum: 0.5", "  minimum: high", 18, "gate.minimum", "found 'high'"),
        ("    epochs: 2", "    epochs: {a: 1}", 12, "train.parameters.epochs", "found {'a': 1}"),
        ("name: spots\n", "name: spots_\n", 1, "name", "found 'spots_'"),
        ("task: segment", "task: segmentation", 2, "task", "found 'segmentation'"),
        ("name: spots\n", "name: other\n", 1, "name", "the folder is called 'spots'"),
        ("  metric: dice\n  minimum", "  metric: map50\n  minimum", 17, "gate.metric", "dice, iou"),
        ("  minimum: 0.5", "  minimum: 0.5\n  direction: min", 19, "gate.direction", "of dice it is max"),
        ("{name: spot,", "{name: background,", 5, "classes", "'background' twice"),
        ("  name: spots\n", "  name: spots\n  group_pattern: '^..'\n", 10, "data.group_pattern", "exactly one group"),
        ("  name: spots\n", "  name: spots\n  group_pattern: '^(.'\n", 10, "data.group_pattern", "exactly one group"),
    ],
)
def test_a_wrong_key_is_told_with_file_line_and_remedy(
    edit: Edit, old: str, new: str, line: int, key: str, told: str
) -> None:
    broken = edit("model.yaml", old, new)
    with pytest.raises(BadInput) as caught:
        _ = broken.spec
    error = caught.value
    assert error.file == str(broken.path / "model.yaml")
    assert (error.line, error.key) == (line, key)
    assert told in str(error)
    assert error.remedy


def test_all_problems_are_told_at_once(edit: Edit) -> None:
    edit("model.yaml", "owner: tests\n", "")
    broken = edit("model.yaml", "  minimum: 0.5", "  minimum: high\n  foo: 1")
    with pytest.raises(BadInput) as caught:
        _ = broken.spec
    for key in ("owner", "gate.minimum", "gate.foo"):
        assert key in str(caught.value)


def test_a_repeated_key_and_broken_yaml_are_refused_with_their_line(edit: Edit) -> None:
    broken = edit("model.yaml", "owner: tests", "owner: tests\nowner: again")
    with pytest.raises(BadInput) as caught:
        _ = broken.spec
    assert caught.value.line == 4
    (broken.path / "model.yaml").write_text("name: spots\n  task: [\n")
    with pytest.raises(BadInput) as caught:
        _ = ModelFolder(broken.path).spec
    assert caught.value.line


def test_overrides_change_parameters_and_fields_and_keep_types(folder: ModelFolder) -> None:
    spec = apply_overrides(
        folder.spec, ["train.epochs=3", "train.rate=1", "train.workers.count=2", "gate.minimum=0.25", "train.seed=7"]
    )
    assert spec.train.parameters == {"epochs": 3, "rate": 1.0, "augment": True}
    assert isinstance(spec.train.parameters["rate"], float)
    assert (spec.train.workers.count, spec.gate.minimum, spec.train.seed) == (2, 0.25, 7)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("train.epochs", "KEY=VALUE"),
        ("train.epoch=3", "no parameter 'epoch'"),
        ("train.epochs=many", "of type int, not str"),
        ("train.epochs=2.5", "of type int, not float"),
        ("train.augment=1", "of type bool, not int"),
        ("gate.minimal=1", "no such key"),
        ("gate.minimum=x", "found 'x'"),
        ("train.workers.count=0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_override_is_refused(folder: ModelFolder, assignment: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        apply_overrides(folder.spec, [assignment])


def test_every_key_is_described_in_the_schema_and_unknown_keys_are_refused_in_it() -> None:
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    objects = [section for section in sections if section.get("type") == "object"]
    assert len(objects) > 6
    for section in objects:
        assert section["additionalProperties"] is False
        for key, value in section["properties"].items():
            assert value.get("description"), key
    json.dumps(schema)


def test_the_schema_that_editors_read_is_current() -> None:
    written = Path(__file__).parents[2] / "docs" / "model.schema.json"
    assert json.loads(written.read_text()) == json_schema(), "run `make schema`"


def test_discovery_is_sorted_and_skips_what_is_no_model(folder: ModelFolder) -> None:
    root = folder.path.parents[1]
    for name in ("abc", ".hidden", "_shared"):
        (root / "models" / name).mkdir()
    assert [found.name for found in discover(root)] == ["abc", "spots"]
    with pytest.raises(BadInput, match=r"abc, spots"):
        find_model("nothing", root)


def test_what_earlier_releases_and_folders_have_is_read_and_check_says_to_remove_it(folder: ModelFolder) -> None:
    wanted, file = folder.spec, folder.path / "model.yaml"
    file.write_text(file.read_text().replace("  select:", "  search: {epochs: [2, 3]}\n  select:"))
    assert parse_spec(file.read_text()) == load_spec(folder.path) == wanted
    (problem,) = check(folder)
    assert (problem.file, problem.line, problem.key, problem.remedy) == (str(file), 15, "train.search", "remove it")


def test_spec_survives_a_round_trip(folder: ModelFolder) -> None:
    assert ModelSpec.model_validate_json(folder.spec.model_dump_json()) == folder.spec
