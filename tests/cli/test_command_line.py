import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelport import cli

ROOT = Path(__file__).parents[2]


def _run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelport", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", sorted({**cli._COMMANDS, **cli._HIDDEN}))
def test_every_command_explains_itself(name: str) -> None:
    answer = _run(name, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "Usage:" in answer.stdout


def test_help_imports_no_heavy_library() -> None:
    code = """
import sys
sys.argv = ["modelport", "--help"]
from modelport.cli import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "ray", "mlflow", "boto3", "numpy", "pydantic", "tritonclient", "onnxruntime", "fastapi", "rich"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "HEAVY []" in answer.stdout


def test_outside_a_project_the_error_says_what_to_do(tmp_path: Path) -> None:
    answer = _run("check", cwd=tmp_path)
    assert answer.returncode == 2
    assert "no folder models/" in answer.stderr
    assert "remedy:" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_a_platform_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    answer = _run("versions", "polyp_seg", MODELPORT_STATE=str(tmp_path))
    assert answer.returncode == 5
    assert "modelport local up" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unknown_model_lists_those_that_there_are() -> None:
    answer = _run("check", "nothing")
    assert answer.returncode == 2
    assert "polyp_seg" in answer.stderr
