"""Rules that a linter has no name for, read off the syntax trees of the library."""

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from privfl.wire import Message

PACKAGE = Path(__file__).parents[2] / "privfl"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file.relative_to(PACKAGE.parent).as_posix(): ast.parse(file.read_text()) for file in FILES}
SECURE = ("privfl/crypto/", "privfl/secagg/", "privfl/he/")
UNSAFE = "unsafe_approximate"  # decrypted CKKS sums before rounding, which give the key away
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg"}


def imports(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(tree: ast.AST) -> Iterator[str]:
    """Names and attributes as they are written, such as `np.random.default_rng`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield ast.unparse(node)


def offences(tree: ast.AST, *, secure: bool, speaks: bool) -> list[str]:
    """What a file of the library may not do."""
    found = []
    for name in imports(tree):
        if name.split(".")[0] in PICKLES:
            found.append(f"imports {name}")
        if secure and (name.split(".")[0] == "random" or name.startswith("numpy.random")):
            found.append(f"draws from {name}")
    for name in names(tree):
        if secure and name.startswith(("np.random", "numpy.random", "random.")):
            found.append(f"draws from {name}")
        if name in ("torch.load", "np.load", "numpy.load", "np.save", "np.savez"):
            found.append(f"pickles through {name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called == "print" and not speaks:
            found.append("prints")
        if called in ("eval", "exec", "time.sleep"):
            found.append(f"calls {called}")
        if any(keyword.arg == "allow_pickle" for keyword in node.keywords):
            found.append("allows pickle")
        if any(keyword.arg == UNSAFE for keyword in node.keywords):
            found.append(f"passes {UNSAFE}")
    if any(isinstance(node, ast.Constant) and node.value == UNSAFE for node in ast.walk(tree)):
        found.append(f"has the name {UNSAFE} at hand, to pass it in a dictionary")
    return found


@pytest.mark.parametrize("path", TREES)
def test_the_rules_are_kept(path: str) -> None:
    assert offences(TREES[path], secure=path.startswith(SECURE), speaks=path.startswith("privfl/cli/")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import joblib.memory",
        "np.load(path)",
        "torch.load(path)",
        "load(path, allow_pickle=True)",
        "import random",
        "from random import choice",
        "from numpy.random import default_rng",
        "rng = np.random.default_rng(seed)",
        "x: np.random.Generator",
        "print(1)",
        "eval(text)",
        "time.sleep(1)",
        "decrypt_sum(plan, block, seeds, work, unsafe_approximate=True)",
        "decrypt_sum(plan, block, seeds, work, unsafe_approximate=wanted)",
        "decrypt_sum(plan, block, seeds, work, **{'unsafe_approximate': True})",
    ],
)
def test_each_rule_can_fail(line: str) -> None:
    assert offences(ast.parse(line), secure=True, speaks=False)


def test_the_unsafe_output_of_ckks_is_asked_for_by_keyword_only_and_off() -> None:
    """So that the rule above sees whoever asks for it; and the one who hands out unrounded sums is the one it names."""
    defined = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                keywords = dict(zip([a.arg for a in node.args.kwonlyargs], node.args.kw_defaults, strict=True))
                assert UNSAFE not in [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                if UNSAFE in keywords:
                    default = keywords[UNSAFE]
                    assert isinstance(default, ast.Constant)
                    assert default.value is False
                    defined.append((path, node.name))
    assert defined == [("privfl/he/opening.py", "decrypt_sum")]
    makers = [
        path
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "ApproximateSum"
    ]
    assert makers == ["privfl/he/opening.py"]


@pytest.mark.parametrize("path", TREES)
def test_every_module_says_what_it_is(path: str) -> None:
    text = ast.get_docstring(TREES[path]) or ""
    assert len(text.split()) >= 2, f"{path} has no docstring"


@pytest.mark.parametrize("path", TREES)
def test_whatever_is_public_says_what_it_is(path: str) -> None:
    body = TREES[path].body
    silent = [
        node.name
        for node in body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


MAX_LINES = 400
FOLDERS = ("benchmarks", "docs", "examples", "notebooks", "privfl", "protocols", "tests", "tools")


def test_files_stay_readable_in_one_sitting() -> None:
    files = [file for folder in FOLDERS for file in (PACKAGE.parent / folder).rglob("*.py")]
    lengths = {file.relative_to(PACKAGE.parent).as_posix(): len(file.read_text().splitlines()) for file in files}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


PROTOCOLS = {
    file.relative_to(PACKAGE.parent).as_posix(): ast.parse(file.read_text(encoding="utf-8"))
    for file in sorted((PACKAGE.parent / "protocols").rglob("*.py"))
}


def test_the_references_and_the_library_share_no_code() -> None:
    """No file of protocols/ imports privfl, and no file of privfl imports one of theirs, which have bare names."""
    bare = {Path(path).stem for path in PROTOCOLS}
    tops = {path: {name.split(".")[0] for name in imports(tree)} for path, tree in (TREES | PROTOCOLS).items()}
    assert [path for path in PROTOCOLS if "privfl" in tops[path]] == []
    assert [path for path in TREES if bare & tops[path]] == []


def test_the_references_import_their_own_folder_and_nothing_by_accident() -> None:
    """A bare name that is not in the folder would be found in another one; one of Python's own would be hidden."""
    bare = {Path(path).stem for path in PROTOCOLS}
    assert bare & sys.stdlib_module_names == set()
    for path, tree in PROTOCOLS.items():
        own = {file.stem for file in (PACKAGE.parent / path).parent.glob("*.py")}
        assert bare & {name.split(".")[0] for name in imports(tree)} <= own, path


@pytest.mark.parametrize(
    "path", [p for p, tree in TREES.items() if any("__all__" in name for name in names(tree)) and "adapters" not in p]
)
def test_whatever_is_exported_exists_once_and_in_order(path: str) -> None:
    module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    exported = module.__all__
    assert len(set(exported)) == len(exported)
    assert all(hasattr(module, name) for name in exported)


def test_no_two_messages_have_one_kind_and_every_protocol_is_listed() -> None:
    fields = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    values = [field.value for field in fields if ast.unparse(field.target) == "KIND"]
    kinds = [int(value.value) for value in values if isinstance(value, ast.Constant)]
    assert len(set(kinds)) == len(kinds) > 20
    listed = re.findall(r"0x(\d\d)\b", inspect.getdoc(Message) or "")
    assert sorted({kind >> 8 for kind in kinds}) == [int(byte, 16) for byte in listed]
