"""Whether a model folder keeps the contract, as far as that can be told without running its code."""

import ast
from pathlib import Path

from modelport.contract.discovery import ModelFolder
from modelport.contract.source import read_yaml
from modelport.contract.spec import SPEC_FILE, UNREAD
from modelport.contract.triton_check import Problem, check_wiring
from modelport.errors import BadInput
from modelport.imaging import decode

MAX_GOLDEN_FILES = 4
MAX_GOLDEN_BYTES = 256 * 1024

_ENTRYPOINTS = (("train.py", "train", "run"), ("pipeline.py", "pipeline", "checkpoint"))


def check(folder: ModelFolder) -> list[Problem]:
    """Every problem of a model folder, none when it keeps the contract."""
    problems: list[Problem] = []
    try:
        spec = folder.spec
    except BadInput as error:
        problems.append(_from_error(error))
        spec = None
    try:
        if spec is not None:
            problems += check_wiring(folder.triton, folder.name, spec.task, folder.path / "triton")
    except BadInput as error:
        problems.append(_from_error(error))
    if spec is not None:
        problems += _check_unread(folder.path / SPEC_FILE)
    for file, function, parameter in _ENTRYPOINTS:
        problems += _check_entrypoint(folder.path / file, function, parameter)
    problems += _check_golden(folder)
    if not problems:
        try:
            folder.bundle().to_bytes()
        except BadInput as error:
            problems.append(_from_error(error, folder.path))
    return problems


def _check_unread(file: Path) -> list[Problem]:
    source = read_yaml(file)
    section, key = UNREAD
    if key not in source.data[section]:
        return []
    message = "nothing reads it, nor ever did"
    return [Problem(str(file), message, "remove it", source.line(UNREAD), ".".join(UNREAD))]


def _check_entrypoint(file: Path, function: str, parameter: str) -> list[Problem]:
    """Look for a function by parsing, not importing: the check needs none of the folder's libraries."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except FileNotFoundError:
        return [Problem(str(file), "there is no such file", f"write it, with `def {function}({parameter})`")]
    except (SyntaxError, ValueError, OSError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        return [Problem(str(file), f"is not valid Python: {error}", "correct it", line=line)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            arguments = node.args
            if (arguments.posonlyargs + arguments.args) or arguments.vararg:
                return []
            remedy = f"write `def {function}({parameter})`"
            return [Problem(str(file), "takes no argument", remedy, line=node.lineno, key=function)]
    return [Problem(str(file), f"has no function {function!r}", f"write `def {function}({parameter})`", line=1)]


def _check_golden(folder: ModelFolder) -> list[Problem]:
    place = folder.path / "sample" / "golden"
    files = folder.golden
    if not files:
        remedy = f"put 1 to {MAX_GOLDEN_FILES} images there, as users would send them; never patient data"
        return [Problem(str(place), "holds no JPEG or PNG image", remedy)]
    problems: list[Problem] = []
    total = sum(file.stat().st_size for file in files)
    if len(files) > MAX_GOLDEN_FILES or total > MAX_GOLDEN_BYTES:
        message = f"holds {len(files)} files of {total} bytes; {MAX_GOLDEN_FILES} and {MAX_GOLDEN_BYTES} are the most"
        problems.append(Problem(str(place), message, "keep fewer or smaller ones"))
    for file in files:
        try:
            decode(file.read_bytes())
        except BadInput as error:
            problems.append(Problem(str(file), error.message, "replace it"))
    return problems


def _from_error(error: BadInput, file: Path | None = None) -> Problem:
    return Problem(error.file or str(file or ""), error.message, error.remedy or "correct it", error.line, error.key)
