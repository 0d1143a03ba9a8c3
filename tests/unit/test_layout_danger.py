"""No module of ours can be talked into running what it reads: no pickle, no evaluation, no shell."""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for room in ("batching", "server", "clients", "benchmarks", "examples", "deploy")
                 for path in (ROOT / room).rglob("*.py"))  # fmt: skip

MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "jsonpickle", "shelve", "marshal", "code"}
NAMES = {"eval", "exec", "compile", "__import__"}
METHODS = {"recv_pyobj", "send_pyobj", "read_pickle", "to_pickle", "unsafe_load", "full_load", "system", "popen"}
MODEL_FILES = "server/batchd_server/models/exported.py"
"""The one place that opens files that are programs; its own tests show what it refuses."""


def dangers(tree: ast.AST) -> Iterator[str]:
    """Yield what could run foreign code, as `line: what`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found = [name.name for name in names if name.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)):
                found = [module] if module.partition(".")[0] in MODULES else []
            case ast.Call(func=ast.Name(id=name)):
                found = [name] if name in NAMES else []
            case ast.Call(func=ast.Attribute(attr=method, value=value), keywords=keywords):
                found = _method(ast.unparse(value), method, {word.arg: ast.unparse(word.value) for word in keywords})
            case _:
                found = []
        yield from (f"{getattr(node, 'lineno', 0)}: {what}" for what in found)


def _method(owner: str, method: str, keywords: dict[str | None, str]) -> list[str]:
    said = f"{owner}.{method}"
    if method in METHODS or keywords.get("shell", "False") != "False" or keywords.get("allow_pickle") == "True":
        return [said]
    if said == "torch.load" and keywords.get("weights_only") != "True":
        return [said]
    if said in {"yaml.load", "torch.jit.load", "torch.export.load", "torch.package"}:
        return [said]
    return []


def test_nothing_that_is_read_is_run() -> None:
    assert len(SOURCES) > 100
    found = {
        str(path.relative_to(ROOT)): sorted(dangers(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES
    }
    of_models = [what.partition(": ")[2] for what in found.pop(MODEL_FILES)]
    assert sorted(of_models) == ["torch.export.load", "torch.jit.load"]
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "import os, pickle as harmless",
        "from pickle import loads",
        "from joblib.externals import anything",
        "def f():\n    import shelve",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "exec(compile(text, '', 'exec'))",
        "socket.recv_pyobj()",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
    ],
)
def test_each_danger_would_be_found(snippet: str) -> None:
    assert list(dangers(ast.parse(textwrap.dedent(snippet))))


@pytest.mark.parametrize(
    "snippet",
    ["torch.load(path, weights_only=True)", "np.load(path, allow_pickle=False)", "model.eval()", "re.compile(text)"],
)
def test_what_only_looks_alike_is_allowed(snippet: str) -> None:
    assert list(dangers(ast.parse(snippet))) == []


def test_the_security_lint_is_on_and_switched_off_nowhere_as_a_whole() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S") and rule[1:].isdigit()} == {"S101"}
    for where, ignored in lint["per-file-ignores"].items():
        allowed = {"S", "S603", "S607"} if where == "tests/**" else {"S603", "S607"}
        if where.startswith("server"):
            allowed = set()
        assert {rule for rule in ignored if (rule[0] == "S" and rule[1:].isdigit()) or rule == "S"} <= allowed, where
    for path in SOURCES:
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "ruff: noqa" not in line, path
            assert not line.rstrip().endswith("# noqa"), f"{path}: a noqa without a rule silences them all"
