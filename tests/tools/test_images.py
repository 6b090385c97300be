"""Images are keyed by all that decides them, built for real, and pinned in a stack only as a registry has them."""

import dataclasses
import importlib.util
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.settings import PLATFORM_VERSION, parse
from tools import BuildError
from tools.images import IMAGES, ensure_layout, write_archive
from tools.images.archive import blobs, image_config, image_size
from tools.images.catalog import PYTHON, ROOT, Recipe
from tools.images.context import context_files, image_digest, lay_out
from tools.images.packages import package_settings
from tools.images.publish import BUILDERS, KEYS, PublishError, Pushed, build_command, find_builder, main, pin

TINY = Recipe("tiny", "docker.io/modelport/tiny:dev", "images/tiny", ("words",))
DOCKERFILE = """\
FROM scratch
COPY words/kept /kept
COPY words/changed /changed
ENV HOME=/tmp
USER 1000:1000
"""
DIGEST = f"sha256:{'5' * 64}"
PUSHED = Pushed("platform", "registry.example.org/team/platform:0.1.0", DIGEST)


def project(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project(
        tmp_path / "project",
        {"images/tiny/Dockerfile": DOCKERFILE, "words/kept": "as it was", "words/changed": "once", "secret": "a key"},
    )


def tiny_digest(root: Path, **changes: object) -> str:
    recipe = dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]
    return image_digest(recipe, context_files(recipe, root, {}))


class TestWhatABuildSees:
    def test_only_what_the_recipe_names_reaches_it(self, root: Path, tmp_path: Path) -> None:
        project(root, {"words/__pycache__/x.pyc": "", "words/left.pyc": ""})
        context = tmp_path / "context"

        lay_out(context_files(TINY, root, {}), context)

        found = {path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file()}
        assert found == {"images/tiny/Dockerfile", "words/kept", "words/changed"}

    def test_a_checkout_made_at_another_time_gives_the_same_layers(self, root: Path, tmp_path: Path) -> None:
        archives: list[bytes] = []
        for age, mode in ((1, 0o600), (2, 0o664)):
            (root / "words/kept").chmod(mode)
            os.utime(root / "words/kept", (age, age))
            context = tmp_path / str(age)
            lay_out(context_files(TINY, root, {}), context)
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as archive:
                archive.add(context, "context")
            archives.append(stream.getvalue())

        assert archives[0] == archives[1]

    def test_a_source_that_is_not_there_is_named(self, root: Path) -> None:
        with pytest.raises(BuildError, match=r"image tiny copies .*/nothing"):
            context_files(dataclasses.replace(TINY, sources=("nothing",)), root, {})

    @pytest.mark.parametrize("name", KEYS)
    def test_a_build_with_docker_sees_it_too(self, name: str) -> None:
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]

        assert "*" in lines
        for source in IMAGES[name].sources:
            assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source

    @pytest.mark.parametrize("name", IMAGES)
    def test_the_recipe_names_all_that_the_dockerfile_copies(self, name: str) -> None:
        recipe = IMAGES[name]
        copied = context_files(recipe, ROOT, dict.fromkeys(recipe.programs, ROOT / "Makefile"))
        text = (ROOT / recipe.folder / "Dockerfile").read_text().replace("\\\n", " ")
        sources = [
            source
            for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
            for source in shlex.split(line)[:-1]
        ]

        for source in sources:
            assert any(path == source or path.startswith(f"{source}/") for path in copied), source


class TestKeys:
    @pytest.mark.parametrize("file", ["images/tiny/Dockerfile", "words/kept", "words/new"])
    def test_another_file_is_another_image(self, root: Path, file: str) -> None:
        before = tiny_digest(root)
        path = root / file
        path.write_text((path.read_text() if path.exists() else "") + "\n# more")

        assert tiny_digest(root) != before

    def test_other_rights_names_arguments_or_bases_are_another_image(self, root: Path) -> None:
        newer = dataclasses.replace(PYTHON, suite="trixie")
        digests = {
            tiny_digest(root),
            tiny_digest(root, reference="docker.io/modelport/other:dev"),
            tiny_digest(root, arguments={"ACCELERATOR": "gpu"}),
            tiny_digest(root, base=PYTHON),
            tiny_digest(root, base=newer),
        }
        (root / "words/kept").chmod(0o755)
        digests.add(tiny_digest(root))

        assert len(digests) == 6

    def test_what_it_does_not_copy_changes_nothing(self, root: Path) -> None:
        before = tiny_digest(root)
        project(root, {"secret": "another key", "words/__pycache__/x.pyc": "compiled"})

        assert tiny_digest(root) == before

    def test_the_platforms_dependencies_do_not_depend_on_its_sources(self) -> None:
        text = (ROOT / IMAGES["platform"].folder / "Dockerfile").read_text()
        stage = text[text.index(" AS platform") :]
        before = stage[: stage.index("/opt/modelport/locks/platform.txt")]

        assert not re.search(r"^COPY .*(modelport /|loadtests|pyproject|--from=library)", before, re.MULTILINE)


class TestBuilding:
    @pytest.fixture(autouse=True)
    def _as_root(self) -> None:
        if os.geteuid() != 0:
            pytest.skip("building images here takes root")

    def test_it_is_built_once_and_a_change_adds_only_what_changed(self, root: Path, tmp_path: Path) -> None:
        said: list[str] = []
        folder = tmp_path / "images"
        (root / "words/kept").write_text("as it was" * 10_000)

        def build() -> Path:
            return ensure_layout("tiny", recipe=TINY, root=root, folder=folder, say=said.append)

        first = build()
        assert build() == first
        assert [line for line in said if line.startswith("built")] == [said[-1]]
        assert any(re.fullmatch(r"image tiny: \d+ MB", line) for line in said)

        (root / "words/changed").write_text("twice")
        second = build()

        assert image_size(second) == image_size(first)
        new = blobs(second) - blobs(first)
        assert sum((second / "blobs" / digest.replace(":", "/")).stat().st_size for digest in new) < 20_000
        assert image_config(second)["config"]["User"] == "1000:1000"
        assert not _mounts(folder)

    def test_an_archive_leaves_out_what_the_receiver_has(self, root: Path, tmp_path: Path) -> None:
        layout = ensure_layout("tiny", recipe=TINY, root=root, folder=tmp_path / "images", say=lambda _: None)
        whole, rest = io.BytesIO(), io.BytesIO()
        everything = blobs(layout)
        present = set(sorted(everything)[:2])

        assert write_archive(layout, whole) > write_archive(layout, rest, present)

        assert _digests(whole) == everything
        assert _digests(rest) == everything - present
        index = json.loads(_content(whole)["index.json"])
        assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == TINY.reference

    def test_a_build_that_fails_says_why_and_leaves_nothing(self, root: Path, tmp_path: Path) -> None:
        (root / "images/tiny/Dockerfile").write_text("FROM scratch\nCOPY words/missing /\n")
        folder = tmp_path / "images"

        with pytest.raises(BuildError, match=r"(?s)tiny.* failed.*words/missing"):
            ensure_layout("tiny", recipe=TINY, root=root, folder=folder, say=lambda _: None)

        assert not list(folder.glob("tiny-*/"))
        assert not _mounts(folder)


class TestStubs:
    """What takes the place of CUDA's libraries in an image for CPUs, made of those that torch brought here."""

    @pytest.fixture
    def stubs(self, tmp_path: Path) -> Path:
        spec = importlib.util.find_spec("nvidia")
        folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
        libraries = [path for folder in folders for path in folder.rglob("lib*.so.*")]
        wanted = [
            path for path in libraries if path.name.startswith(("libcublas.so", "libcusparseLt.so", "libcudart.so"))
        ]
        if len(wanted) != 3 or platform.machine() != "x86_64":
            pytest.skip("torch brought no CUDA libraries for x86-64 here")
        for path in wanted:
            shutil.copy(path, tmp_path)
        subprocess.run([sys.executable, ROOT / "images/platform/cuda_stubs.py", tmp_path], check=True, timeout=120)
        return tmp_path

    def test_they_load_offer_the_same_names_and_fail_when_called(self, stubs: Path) -> None:
        # In a process of its own: another library of the same name may be loaded in this one.
        program = textwrap.dedent("""
            import ctypes, sys
            from pathlib import Path
            (blas,) = Path(sys.argv[1]).glob("libcublas.so.*")
            library = ctypes.CDLL(str(blas))
            library.cublasGetStatusString.restype = ctypes.c_char_p
            find = ctypes.CDLL(None).dlvsym
            find.restype = ctypes.c_void_p
            find.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
            versioned = find(library._handle, b"cublasSgemm_v2", blas.name.encode())
            other = find(library._handle, b"cublasSgemm_v2", b"another")
            print(library.cublasCreate_v2(0), library.cublasGetStatusString(1), bool(versioned), bool(other))
        """)
        done = subprocess.run([sys.executable, "-c", program, stubs], capture_output=True, text=True, timeout=60)

        assert done.stdout == "1 b'no GPU: this image has no CUDA' True False\n", done.stderr
        (stub,) = stubs.glob("libcublas.so.*")
        assert stub.stat().st_size < 100_000

    def test_names_of_cpp_templates_are_nobody_elses(self, stubs: Path) -> None:
        (stub,) = stubs.glob("libcusparseLt.so.*")

        assert b"cusparseLtInit\0" in stub.read_bytes()
        assert b"_ZNSt6vector" not in stub.read_bytes()

    def test_what_torch_asks_for_a_gpu_stays(self, stubs: Path) -> None:
        (runtime,) = stubs.glob("libcudart.so.*")

        assert runtime.stat().st_size > 100_000


class TestPackages:
    @pytest.mark.parametrize(
        ("environment", "pip_config", "wanted"),
        [
            ({"PATH": "/bin", "PIP_FIND_LINKS": "/wheels"}, ":env:.cert='/c.pem'\nglobal.cert='/c.pem'\n", ""),
            (
                {},
                "global.index-url='https://a.example.org/simple'\n",
                "PIP_INDEX_URL=https://a.example.org/simple\nUV_DEFAULT_INDEX=https://a.example.org/simple\n",
            ),
            (
                {"PIP_INDEX_URL": "https://b.example.org/?x=1&y", "UV_INDEX_URL": "https://c.example.org"},
                "global.index-url='https://a.example.org'\n",
                "PIP_INDEX_URL='https://b.example.org/?x=1&y'\nUV_INDEX_URL=https://c.example.org\n",
            ),
        ],
    )
    def test_builds_are_told_where_this_machine_finds_packages(
        self, environment: dict[str, str], pip_config: str, wanted: str
    ) -> None:
        assert package_settings(environment, pip_config) == wanted


class TestPinning:
    STACK = """\
# what this environment is
config:
  modelport:owner: ml  # who answers
{line}
  modelport:cluster:
    kind: existing   # a cluster that is there
    context: here
    nodes: {{all: {{cpus: 4, memory: 16Gi}}}}
"""

    @pytest.mark.parametrize(
        "line",
        ["  # the image comes here", "  modelport:image: team/platform:0.0.9 # reviewed"],
        ids=["new", "another one before"],
    )
    def test_a_stack_runs_what_was_pushed_and_keeps_its_comments(self, tmp_path: Path, line: str) -> None:
        place = tmp_path / "stacks" / "here"
        place.mkdir(parents=True)
        file = place / "Pulumi.here.yaml"
        file.write_text(self.STACK.format(line=line))
        link = tmp_path / "stacks" / "Pulumi.here.yaml"
        link.symlink_to("here/Pulumi.here.yaml")
        before = file.read_text().splitlines()

        pin(link, "modelport:image", PUSHED)

        from ruamel.yaml import YAML

        config = YAML(typ="safe").load(file.read_text())["config"]
        settings = parse({key.removeprefix("modelport:"): value for key, value in config.items()}, "here")
        assert settings.image == f"registry.example.org/team/platform:0.1.0@{DIGEST}"
        assert link.is_symlink()
        after = file.read_text().splitlines()
        changed = [old for old in before if old not in after]
        assert changed in ([], [line])
        assert file.read_text().count("#") == self.STACK.format(line=line).count("#")

    @pytest.mark.parametrize("stack", ["dev", "prod"])
    def test_the_stacks_that_there_are_get_one_line_more(self, tmp_path: Path, stack: str) -> None:
        file = tmp_path / "Pulumi.yaml"
        before = (ROOT / "stacks" / stack / f"Pulumi.{stack}.yaml").read_text()
        file.write_text(before)

        line = pin(file, "modelport:image", PUSHED)

        after = file.read_text().splitlines()
        after.remove(f"  {line}")
        assert after == before.splitlines()

    @pytest.mark.parametrize("digest", ["", "sha256:1234", "0.1.0"])
    def test_an_image_that_no_registry_has_is_refused(self, tmp_path: Path, digest: str) -> None:
        file = tmp_path / "Pulumi.dev.yaml"
        file.write_text(self.STACK.format(line=""))

        with pytest.raises(PublishError, match="push it first"):
            pin(file, "modelport:image", dataclasses.replace(PUSHED, digest=digest))

        assert file.read_text() == self.STACK.format(line="")

    def test_a_file_in_another_form_is_left_as_it_is(self, tmp_path: Path) -> None:
        file = tmp_path / "Pulumi.dev.yaml"
        file.write_text("config: {modelport:owner: ml}\n")

        with pytest.raises(PublishError, match="pulumi config set modelport:image"):
            pin(file, "modelport:image", PUSHED)

        assert file.read_text() == "config: {modelport:owner: ml}\n"

    def test_a_stack_without_a_registry_is_refused_before_anything_is_built(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            main(["--stack", "dev"])

        assert "PUSH=" in capsys.readouterr().err


class TestBuilders:
    @pytest.mark.parametrize(
        ("works", "chosen"),
        [({"docker": True, "podman": True}, "docker"), ({"docker": False, "buildah": True}, "buildah")],
        ids=["docker", "docker without its daemon"],
    )
    def test_the_first_that_can_build_is_taken(self, tmp_path: Path, works: Mapping[str, bool], chosen: str) -> None:
        for name, work in works.items():
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\nexit {0 if work else 1}\n")
            program.chmod(0o755)

        assert find_builder({"PATH": str(tmp_path)}) == chosen

    def test_none_is_named_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(PublishError, match="tried docker, podman, buildah; install one"):
            find_builder({"PATH": str(tmp_path)})

    @pytest.mark.parametrize("builder", BUILDERS)
    def test_the_published_base_and_the_accelerator_are_said(self, builder: str) -> None:
        command = build_command(builder, IMAGES["platform"], "modelport/platform:0.1.0", "gpu", Path("/secret"))

        assert command[:2] == [builder, "build"]
        assert "ACCELERATOR=gpu" in command
        assert any(part.startswith(f"BASE={PYTHON.published}") for part in command)
        assert "id=packages,src=/secret" in command


class TestPublishing:
    """With programs that answer as their documentation says; the real ones were not run, see docs/images.md."""

    STAND_INS: Mapping[str, str] = {
        "docker": """\
            case "$1 $2" in
                "image inspect") echo 3600000000 ;;
                "inspect --format") echo '["elsewhere/x@sha256:0", "registry.example.org/team/platform@DIGEST"]' ;;
            esac
            """,
        "podman": """\
            case "$1 $2" in
                "image inspect") echo 3600000000 ;;
                "push --digestfile") echo DIGEST > "$3" ;;
            esac
            """,
        "buildah": """\
            case "$1 $2" in
                "images --json") echo '[{"size": "3.6 GB"}]' ;;
                "push --digestfile") echo DIGEST > "$3" ;;
            esac
            """,
    }

    @pytest.fixture
    def here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A project with a stack, and nothing on PATH but what a shell needs."""
        project(tmp_path, {"stacks/here/Pulumi.here.yaml": TestPinning.STACK.format(line="")})
        monkeypatch.setattr("tools.images.publish.ROOT", tmp_path)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("BUILDER", raising=False)
        return tmp_path

    def stand_in(self, here: Path, builder: str, script: str) -> None:
        lines = textwrap.dedent(script).replace("DIGEST", DIGEST)
        (here / builder).write_text(f'#!/bin/sh\necho "$@" >> {here}/said\n{lines}')
        (here / builder).chmod(0o755)

    @pytest.mark.parametrize("builder", BUILDERS)
    def test_an_image_is_built_pushed_and_pinned(
        self, here: Path, builder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stand_in(here, builder, self.STAND_INS[builder])
        monkeypatch.setenv("BUILDER", builder)

        assert main(["--push", "registry.example.org/team/", "--stack", "here", "--accelerator", "cpu"]) == 0

        pinned = f"modelport:image: registry.example.org/team/platform:{PLATFORM_VERSION}@{DIGEST}"
        assert pinned in (here / "stacks/here/Pulumi.here.yaml").read_text()
        said = capsys.readouterr().out
        assert f"registry.example.org/team/platform:{PLATFORM_VERSION}: 3.6" in said.replace("3.60 GB", "3.6 GB")
        assert pinned in said
        commands = (here / "said").read_text().splitlines()
        assert [command.split()[0] for command in commands if command.split()[0] in ("build", "push")] == [
            "build",
            "push",
        ]

    def test_a_push_that_fails_pins_nothing(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.stand_in(here, "docker", 'if [ "$1" = push ]; then exit 1; fi\n' + self.STAND_INS["docker"])
        before = (here / "stacks/here/Pulumi.here.yaml").read_text()

        assert main(["--push", "registry.example.org/team", "--stack", "here"]) == 1

        assert "`docker push registry.example.org/team/platform" in capsys.readouterr().err
        assert (here / "stacks/here/Pulumi.here.yaml").read_text() == before

    def test_a_registry_that_tells_no_digest_pins_nothing(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.stand_in(here, "docker", "case $1 in inspect) echo '[]' ;; image) echo 1 ;; esac")

        assert main(["--push", "registry.example.org/team", "--stack", "here"]) == 1

        assert "told no digest" in capsys.readouterr().err
        assert DIGEST not in (here / "stacks/here/Pulumi.here.yaml").read_text()


def test_opencv_without_windows_is_of_the_locked_version() -> None:
    locked = re.search(r"^opencv-python==(\S+)", (ROOT / "locks/platform.txt").read_text(), re.MULTILINE)
    headless = re.search(
        r"^opencv-python-headless==(\S+)", (ROOT / "images/platform/headless.txt").read_text(), re.MULTILINE
    )
    assert locked
    assert headless
    assert headless[1] == locked[1]


def _mounts(folder: Path) -> list[str]:
    table = subprocess.run(["cat", "/proc/self/mounts"], capture_output=True, text=True, check=True).stdout
    return [line for line in table.splitlines() if str(folder) in line]


def _content(archive: io.BytesIO) -> dict[str, bytes]:
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def _digests(archive: io.BytesIO) -> set[str]:
    return {name.removeprefix("blobs/").replace("/", ":") for name in _content(archive) if name.startswith("blobs/")}
