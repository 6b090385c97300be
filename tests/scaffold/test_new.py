"""`modelport new`: what it writes, what it refuses, and that nothing else changes."""

import hashlib
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from modelport.cli.new import new
from modelport.contract import Task, check, find_model
from modelport.data import load_dataset, load_heldout
from modelport.errors import BadInput
from modelport.scaffold import create

PROJECT = Path(__file__).resolve().parents[2]
TASKS = list(Task)
MANY = [f"kind {number}" for number in range(256)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one model already in it, and the directory that commands are called in."""
    root = tmp_path / "project"
    (root / "models" / "other").mkdir(parents=True)
    (root / "models" / "other" / "model.yaml").write_text("name: other\n")
    (root / "pyproject.toml").write_text("[project]\n")
    monkeypatch.delenv("MODELPORT_PROJECT", raising=False)
    monkeypatch.chdir(root)
    return root


def tree(root: Path, *, without: str = "") -> dict[str, str]:
    """Hash and mode of everything under a folder, but for a model's."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        place = path.relative_to(root).as_posix()
        if without and f"{place}/".startswith(f"models/{without}/"):
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        found[place] = f"{path.lstat().st_mode:o} {content}"
    return found


def call(*arguments: str) -> Result:
    return CliRunner().invoke(new, arguments)


def refusal(*arguments: str) -> BadInput:
    result = call(*arguments)
    assert isinstance(result.exception, BadInput), result.output
    assert result.exception.remedy
    return result.exception


def names(root: Path, name: str) -> list[str]:
    return [label.name for label in find_model(name, root).spec.classes]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("classes", [None, ["bare", "slush", "snow"], ["no", "Zürich", 'a "b": #c $d {e}'], MANY])
def test_the_folder_keeps_the_contract_and_its_sample_is_a_dataset(
    root: Path, tmp_path: Path, task: Task, classes: list[str] | None
) -> None:
    if classes and task is Task.CLASSIFY:
        classes = [name.replace(":", "").replace('"', "") for name in classes]
    if classes and task is Task.SEGMENT:
        classes = classes[:255]
    before = tree(root)
    folder = create(root, "snow_level", task, classes, owner='Jörg "J": #1')
    assert tree(root, without="snow_level") == before
    model = find_model("snow_level", root)
    assert check(model) == []
    assert model.spec.task is task
    assert model.spec.owner == 'Jörg "J": #1'
    wanted = classes or {"segment": ["object"], "detect": ["object"], "classify": ["negative", "positive"]}[task]
    assert names(root, "snow_level") == (["background", *wanted] if task is Task.SEGMENT else wanted)

    files = [path for path in folder.rglob("*") if path.is_file()]
    sample = {path: path.stat().st_size for path in files if path.is_relative_to(folder / "sample")}
    golden = [size for path, size in sample.items() if path.parent.name == "golden"]
    assert sum(sample.values()) < 400 * 1024
    assert len(golden) <= 4
    assert sum(golden) < 256 * 1024
    uri = str(folder / "sample")
    dataset = load_dataset(uri, model.spec, store=None, cache=tmp_path / "cache")
    heldout = load_heldout(uri, model.spec, store=None, cache=tmp_path / "cache")
    assert len(dataset.train) > len(dataset.selection) > 0
    assert len(heldout) > 0
    if task is Task.CLASSIFY:
        for split in (dataset.train, heldout):
            assert {int(split.target(index)) for index in range(len(split))} == set(range(len(wanted)))
    for text in files:
        if text.suffix in (".py", ".md", ".yaml", ".pbtxt"):
            assert "$" not in text.read_text().replace("$schema", "").replace("$d", ""), f"{text} is not filled in"


@pytest.mark.parametrize("task", TASKS)
def test_the_same_call_writes_the_same_bytes(root: Path, tmp_path: Path, task: Task) -> None:
    (tmp_path / "again" / "models").mkdir(parents=True)
    first, second = (create(place, "twice", task, ["a", "b", "c"], owner="me") for place in (root, tmp_path / "again"))
    assert tree(first) == tree(second)


def test_the_code_is_as_clean_as_the_projects(tmp_path: Path) -> None:
    # Under the project's own settings, and with the project's modules in reach.
    (tmp_path / "models").mkdir()
    for name in ("pyproject.toml", ".venv", "modelport"):
        (tmp_path / name).symlink_to(PROJECT / name)
    for task in TASKS:
        create(tmp_path, f"{task.value}_".ljust(40, "x"), task, ["bare", "slush", "snow"], owner="me")
    configuration = tmp_path / "pyrightconfig.json"
    configuration.write_text(
        '{"include": ["models"], "typeCheckingMode": "basic", "venvPath": ".", "venv": ".venv", '
        '"pythonVersion": "3.11", "reportMissingTypeStubs": false}'
    )
    bin_folder = Path(sys.executable).parent
    for command in (
        [bin_folder / "ruff", "check", "models"],
        [bin_folder / "ruff", "format", "--check", "models"],
        [bin_folder / "pyright", "--project", configuration],
    ):
        done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_says_what_to_do_next_from_where_it_was_called(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "notes").mkdir()
    monkeypatch.chdir(root / "notes")
    result = call("snow_level", "--task", "classify", "--classes", "bare, slush,snow", "--owner", "winter service")
    assert result.exit_code == 0, result.output
    assert names(root, "snow_level") == ["bare", "slush", "snow"]
    commands = [line.split() for line in result.output.splitlines() if line.startswith("  modelport ")]
    assert [command[1] for command in commands[:6]] == ["check", "local", "train", "gate", "promote", "predict"]
    paths = [word for command in commands for word in command if "/" in word]
    assert len(paths) == 3
    assert all((root / "notes" / path).exists() for path in paths), paths


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("Snow-Level", "snow_level"),
        ("3d lungs", "model_3d_lungs"),
        ("Größe", "grosse"),
        ("_x_", "x"),
        ("x_", "x"),
        ("../escape", "escape"),
        ("x" * 41, "x" * 40),
        ("network", "network_model"),
    ],
)
def test_a_bad_name_is_refused_with_a_good_one(root: Path, name: str, suggested: str) -> None:
    before = tree(root)
    assert suggested in (refusal("--task", "segment", "--", name).remedy or "").replace(",", "").split()
    assert tree(root) == before
    call("--task", "segment", "--owner", "me", "--", suggested)
    assert check(find_model(suggested, root)) == []


@pytest.mark.parametrize(
    ("task", "classes", "said"),
    [
        ("classify", "snow", "nothing to decide"),
        ("segment", "background", "nothing to decide"),
        ("classify", "snow,", "no name"),
        ("classify", "dry,wet,dry", "'dry' comes twice"),
        ("classify", "dry,Dry", "'Dry' comes twice"),
        ("detect", "car,car", "'car' comes twice"),
        ("segment", "snow,background", "class 0"),
        ("classify", "dry,wet/damp", "name of a folder"),
        ("classify", "dry,..", "begins with a dot"),
        ("classify", "dry,validation", "folder of a split"),
        ("classify", "dry,we\tt", "cannot be shown"),
        ("detect", ",".join(map(str, range(257))), "256"),
    ],
)
def test_bad_classes_are_refused(root: Path, task: str, classes: str, said: str) -> None:
    before = tree(root)
    assert said in str(refusal("snow_level", "--task", task, "--classes", classes))
    assert tree(root) == before


def test_what_is_there_is_not_touched(root: Path) -> None:
    (root / "models" / "empty").mkdir()
    (root / "models" / "dangling").symlink_to(root / "nowhere")
    before = tree(root)
    for name in ("other", "empty", "dangling"):
        assert "is there already" in str(refusal(name, "--task", "classify"))
    assert tree(root) == before


def test_outside_a_project_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELPORT_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "no folder models/" in str(refusal("snow_level", "--task", "classify"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_whole_is_not_written(root: Path) -> None:
    if os.geteuid() == 0:
        # A disk that is full after the first files, for a process that may do anything.
        code = (
            "import resource, sys; from pathlib import Path; from modelport.scaffold import create; "
            "from modelport.contract import Task; import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600)); "
            "create(Path(sys.argv[1]), 'snow_level', Task.CLASSIFY, owner='me')"
        )
        before = tree(root)
        done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=60)
        assert "File too large" in done.stderr
    else:
        (root / "models").chmod(0o555)
        before = tree(root)
        with pytest.raises(OSError, match="denied"):
            create(root, "snow_level", Task.CLASSIFY, owner="me")
    assert tree(root) == before


def test_of_several_at_once_one_writes(root: Path) -> None:
    def attempt(owner: str) -> str:
        try:
            create(root, "snow_level", Task.SEGMENT, owner=owner)
        except BadInput as error:
            return error.message
        return ""

    with ThreadPoolExecutor(4) as pool:
        said = dict(zip("abcd", pool.map(attempt, "abcd"), strict=True))
    (winner,) = [owner for owner, problem in said.items() if not problem]
    assert {problem for problem in said.values() if problem} == {"is there already; nothing was written"}
    assert find_model("snow_level", root).spec.owner == winner
    assert sorted(path.name for path in (root / "models").iterdir()) == ["other", "snow_level"]


def test_the_classes_are_read_from_the_users_images(root: Path, tmp_path: Path) -> None:
    folders = tmp_path / "folders"
    for place in ("train/wet", "train/dry", "train/.hidden", "validation/dry", "validation/wet"):
        (folders / place).mkdir(parents=True)
        (folders / place / "1.jpg").write_bytes(b"not looked at")
    flat = tmp_path / "flat"
    for name in ("b", "a"):
        (flat / name).mkdir(parents=True)
        (flat / name / "1.jpg").touch()
    zipped = tmp_path / "zipped.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for name in ("roads/wet/1.jpg", "roads/dry/1.jpg", "roads/damp/2.jpg", "__MACOSX/roads/._1.jpg"):
            archive.writestr(name, b"")
    for number, (data, wanted) in enumerate(
        [(folders, ["dry", "wet"]), (flat, ["a", "b"]), (zipped, ["damp", "dry", "wet"])]
    ):
        assert call(f"roads_{number}", "--task", "classify", "--data", str(data)).exit_code == 0
        assert names(root, f"roads_{number}") == wanted

    yolo = tmp_path / "yolo"
    (yolo / "train" / "labels").mkdir(parents=True)
    (yolo / "data.yaml").write_text("train: ../train/images\nnames: {1: car, 0: bicycle}\n")
    assert call("cars", "--task", "detect", "--data", str(yolo)).exit_code == 0
    assert names(root, "cars") == ["bicycle", "car"]
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("\ufeffNodule/Mass\nEffusion\n\n")
    assert call("lungs", "--task", "detect", "--data", str(yolo)).exit_code == 0
    assert names(root, "lungs") == ["Nodule/Mass", "Effusion"]
    table = tmp_path / "vinbigdata"
    (table / "images").mkdir(parents=True)
    (table / "train.csv").write_text(
        "image_id,class_name,rad_id,x_min,y_min,x_max,y_max\n"
        "1,No finding,R1,,,,\n2,Nodule/Mass,R1,1,2,3,4\n2,Aortic enlargement,R2,1,2,3,4\n"
    )
    assert call("readers", "--task", "detect", "--data", str(table)).exit_code == 0
    assert names(root, "readers") == ["Aortic enlargement", "Nodule/Mass"]


def test_images_that_do_not_say_their_classes_are_refused(root: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "images").mkdir(parents=True)
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    before = tree(root)
    assert "classes.txt" in str(refusal("cars", "--task", "detect", "--data", str(empty)))
    assert "nothing to decide" in str(refusal("roads", "--task", "classify", "--data", str(empty)))
    assert "neither a folder nor a zip" in str(
        refusal("roads", "--task", "classify", "--data", str(tmp_path / "broken.zip"))
    )
    assert "is not there" in str(refusal("roads", "--task", "segment", "--data", str(tmp_path / "nowhere")))
    both = refusal("roads", "--task", "classify", "--data", str(empty), "--classes", "a,b")
    assert "both name the classes" in str(both)
    assert tree(root) == before


def test_a_detector_says_why_its_licence_is_what_it_is(root: Path) -> None:
    folder = create(root, "cars", Task.DETECT, owner="me")
    assert find_model("cars", root).spec.license == "AGPL-3.0-only"
    assert "Ultralytics" in (folder / "model.yaml").read_text()
    assert "Ultralytics" in (folder / "README.md").read_text()
    call("own", "--task", "segment", "--license", "Apache-2.0", "--owner", "me")
    assert find_model("own", root).spec.license == "Apache-2.0"
