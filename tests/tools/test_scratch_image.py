"""Images of one program: whole, the same each time, and refused where they could not run."""

import json
import sys
import tarfile
from pathlib import Path

import pytest

from tools import BuildError, program
from tools.scratch_image import archive


@pytest.fixture(scope="module")
def pause() -> Path:
    return program("pause")


def read(tar: tarfile.TarFile, name: str) -> bytes:
    opened = tar.extractfile(name)
    assert opened is not None
    return opened.read()


def test_it_holds_the_program_where_it_is_started_and_as_nobody(pause: Path, tmp_path: Path) -> None:
    file = archive(pause, "example.test/pause:1", "/opt/bin/wait", cache=tmp_path, say=lambda text: None)

    with tarfile.open(file) as tar:
        (image,) = json.loads(read(tar, "manifest.json"))
        config = json.loads(read(tar, image["Config"]))
        assert image["RepoTags"] == ["example.test/pause:1"]
        assert config["config"]["Entrypoint"] == ["/opt/bin/wait"]
        assert config["config"]["User"] == "65532:65532"
        opened = tar.extractfile(image["Layers"][0])
        with tarfile.open(fileobj=opened) as layer:
            assert layer.getnames() == ["opt", "opt/bin", "tmp", "opt/bin/wait"]
            assert read(layer, "opt/bin/wait") == pause.read_bytes()
            assert layer.getmember("opt/bin/wait").mode == 0o755
            assert layer.getmember("tmp").mode == 0o1777


def test_it_is_made_once_for_what_it_holds(pause: Path, tmp_path: Path) -> None:
    said: list[str] = []

    def made(reference: str, cache: str, **more: str) -> Path:
        return archive(pause, reference, cache=tmp_path / cache, say=said.append, **more)

    first = made("a.test/x:1", "one")
    assert made("a.test/x:1", "one") == first
    assert len(said) == 2, "begun and done"
    assert made("a.test/x:1", "two").read_bytes() == first.read_bytes(), "nothing of the time or the user is in it"
    others = {
        made("a.test/x:2", "one"),
        made("a.test/x:1", "one", user="0:0"),
        made("a.test/x:1", "one", entrypoint="/y"),
    }
    assert len(others | {first}) == 4


def test_a_program_that_needs_libraries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="needs libraries"):
        archive(Path(sys.executable).resolve(), "a.test/x:1", cache=tmp_path)

    assert list(tmp_path.iterdir()) == []
