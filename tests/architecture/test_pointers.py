"""Every section, file, module, class and setting that a docstring, a comment or a page cites exists."""

import ast
import builtins
import re
import tomllib
from functools import cache

import pytest
from style import ROOT, files

PATHS = [file.relative_to(ROOT).as_posix() for file in files()]
PACKAGE = {file: ast.parse(file.read_text()) for file in sorted((ROOT / "privfl").rglob("*.py"))}
SKIPPED = {"__pycache__", ".git", ".venv", "node_modules", "_build", ".ruff_cache", ".mypy_cache"}

SECTION = re.compile(r"\b[Ss]ections? (\d+(?:\.\d+)?(?:(?:, | and | or | to )\d+(?:\.\d+)?)*)")
SPEC = re.compile(r"(?:protocols/)?([a-z]+-[a-z]+)(?:/SPEC\.md)?[`),(]*")
PAPER = re.compile(r"\b(?:1[89]|20)\d\d\b|\bRFC \d+|\*[A-Z][^*]+\*")
FILE = re.compile(
    r"(?<![\w/.<*{-])((?:[\w-]+/)*[\w-]+(?:\.[\w-]+)*\.(?:py|md|toml|json|jsonl|ipynb|rst|html|key|safetensors))(?![\w(/])"
)
DOTTED = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.\w+)+)(?:\([^`]*\))?`(?!`)")
CLASS = re.compile(r"(?<!`)`([A-Z][a-z]\w*)(?:\([^`]*\))?`(?!`)")
MODULE = re.compile(r"\b(privfl(?:\.\w+)+)")

# The page that a bare "SPEC.md" or "section 7" means, by the folder of the code that cites it.
HOME = {
    "privfl/he/": "ckks-sum",
    "privfl/secagg/": "masked-sum",
    "privfl/dp/": "privacy-ledger",
    "privfl/codec": "fixed-point",
    "privfl/fl/": "round-plan",
}
ELSEWHERE = {
    "np",
    "numpy",
    "torch",
    "os",
    "json",
    "Path",
    "Fraction",
    "secrets",
    "scipy",
    "sklearn",
    "opacus",
    "DpEvent",
    "Generator",
    "Sequential",
}


def cited(path: str) -> str:
    """The prose of a file: a page without its code, or the docstrings, comments and messages of a module."""
    text = (ROOT / path).read_text()
    if path.endswith(".md"):
        return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    strings = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    prose = [string for string in strings if " " in string]
    comments = re.findall(r"(?:^|\s)#:? (.*)$", text, flags=re.MULTILINE)
    return "\n\n".join(prose) + "\n\n" + "\n".join(comments)


@cache
def headings(page: str) -> frozenset[str]:
    """The numbers of the sections of a specification."""
    text = (ROOT / "protocols" / page / "SPEC.md").read_text()
    return frozenset(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", text, flags=re.MULTILINE))


def home(path: str) -> str | None:
    """The specification that belongs to a file."""
    if path.startswith("protocols/"):
        return path.split("/")[1]
    return next((page for start, page in HOME.items() if path.startswith(start)), None)


def lost_sections(path: str, text: str) -> list[str]:
    """The sections that do not exist, or of which nobody knows whose they are."""
    flat = " ".join(text.split())
    lost = []
    for hit in SECTION.finditer(flat):
        before = flat[max(0, hit.start() - 160) : hit.start()]
        sentence = re.split(r"(?<=[a-z)`])\. |; | \| |\n", before)[-1]
        after = re.match(r" of (?:`?protocols/)?([a-z]+-[a-z]+)", flat[hit.end() :])
        pages = [m[1] for m in SPEC.finditer(sentence) if (ROOT / "protocols" / m[1]).is_dir()]
        if after and (ROOT / "protocols" / after[1]).is_dir():
            page: str | None = after[1]
        elif pages:
            page = pages[-1]
        elif PAPER.search(sentence):
            continue  # the section of a paper
        else:
            page = home(path)
        numbers = re.findall(r"\d+(?:\.\d+)?", hit[1])
        lost += [f"{hit[0]} of {page}" for number in numbers if page is None or number not in headings(page)]
    return lost


@cache
def known_files() -> frozenset[str]:
    """Every file of the project and every end of its path, and every name that a run writes or reads."""
    ends: set[str] = set()
    for file in ROOT.rglob("*"):
        place = file.relative_to(ROOT)
        if not SKIPPED & set(place.parts):
            ends |= {"/".join(place.parts[at:]) for at in range(len(place.parts))}
    for tree in PACKAGE.values():
        ends |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.-]+", node.value)
        }
    return frozenset(ends)


# A page may name files that its reader has or makes.
EXAMPLES = re.compile(
    r"^(?:my_|my-|your|example|secret/|runs?/|public/|a\.|b\.|CONFIG|config\.toml$|schema\.toml$|run\.toml$|digits|models/|fed_heart_disease/|privfl\.schema\.json$|patients\.toml$|ledger\.jsonl?$)"
)


def lost_files(text: str) -> list[str]:
    """The files that the project does not have and no run writes."""
    return [name for name in FILE.findall(text) if name not in known_files() and not EXAMPLES.match(name)]


@cache
def members(kind: str) -> frozenset[str]:
    """What the classes of one name define, inherited names included."""
    found: set[str] = set()
    for tree in PACKAGE.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name == kind:
                for item in ast.walk(node):
                    if isinstance(item, (ast.FunctionDef, ast.ClassDef)):
                        found.add(item.name)
                    elif isinstance(item, ast.AnnAssign) and isinstance(item.target, (ast.Name, ast.Attribute)):
                        found.add(item.target.id if isinstance(item.target, ast.Name) else item.target.attr)
                    elif isinstance(item, (ast.Name, ast.Attribute)) and isinstance(item.ctx, ast.Store):
                        found.add(item.id if isinstance(item, ast.Name) else item.attr)
                for base in node.bases:
                    found |= members(ast.unparse(base).split("[")[0].split(".")[-1])
    return frozenset(found)


@cache
def known_names() -> frozenset[str]:
    """Every name that a module of the library defines or imports at its top, and its classes."""
    found = set(dir(builtins))
    for tree in PACKAGE.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return frozenset(found)


@cache
def settings() -> dict[str, frozenset[str]]:
    """The keys of each section of a configuration."""
    from privfl.experiment.config.schema import config_schema

    schema = config_schema()
    kinds = schema.get("$defs", {})
    found = {}
    for name, entry in schema["properties"].items():
        target = entry.get("$ref") or next(
            (part.get("$ref") for part in entry.get("anyOf", []) + entry.get("allOf", []) if "$ref" in part), None
        )
        if target:
            found[name] = frozenset(kinds[target.split("/")[-1]]["properties"])
    return found


def module_has(dotted: str) -> bool:
    """Whether a dotted path below privfl leads to a module, or to a name in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        base = ROOT.joinpath("privfl", *parts[:cut])
        file = base.with_suffix(".py") if base.with_suffix(".py").exists() else base / "__init__.py"
        if not file.exists():
            continue
        rest = parts[cut:]
        if not rest:
            return True
        top = {n.name: n for n in PACKAGE[file].body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
        defined = {n.id for n in ast.walk(PACKAGE[file]) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        imported = {a.asname or a.name for n in PACKAGE[file].body if isinstance(n, ast.ImportFrom) for a in n.names}
        if rest[0] not in top and rest[0] not in defined | imported:
            return False
        return len(rest) == 1 or rest[1] in members(rest[0])
    return False


def lost_names(text: str) -> list[str]:
    """The modules, classes, members and settings that do not exist."""
    lost = [name for name in MODULE.findall(FILE.sub("", text)) if not module_has(name.removeprefix("privfl."))]
    lost += [name for name in CLASS.findall(text) if name not in known_names() and name not in ELSEWHERE]
    packages = {file.relative_to(ROOT / "privfl").parts[0].removesuffix(".py") for file in PACKAGE}
    for name in DOTTED.findall(text):
        first, second = name.split(".")[:2]
        if name.startswith("privfl.") or first in ELSEWHERE or FILE.fullmatch(name) or name in known_files():
            continue
        if first[0].isupper():
            exists = first in known_names() and (not members(first) or second in members(first))
        elif first in packages:
            exists = module_has(name) or second in settings().get(first, ())
        else:  # a setting, or a variable of an example
            exists = first not in settings() or second in settings()[first] | known_names()
        lost += [] if exists else [name]
    return lost


@pytest.mark.parametrize("path", PATHS)
def test_every_pointer_leads_somewhere(path: str) -> None:
    text = cited(path)
    assert lost_sections(path, text) == []
    assert lost_files(text) == []
    own = set(re.findall(r"^class (\w+)", (ROOT / path).read_text(), flags=re.MULTILINE))
    assert [name for name in lost_names(text) if name not in own] == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("privfl/he/x.py", "Checked as in SPEC.md, section 99."),
        ("privfl/dp/x.py", "See protocols/privacy-ledger, section 99, for the proof."),
        ("protocols/fixed-point/SPEC.md", "as in sections 3 and 99"),
        ("privfl/wire.py", "as in section 3"),
    ],
)
def test_a_lost_section_is_noticed(path: str, text: str) -> None:
    assert lost_sections(path, text)


def test_sections_of_papers_are_left_to_their_papers() -> None:
    assert not lost_sections("privfl/wire.py", "Bonawitz et al. 2017, section 97. RFC 7748 (section 98).")


def test_a_lost_file_or_name_is_noticed() -> None:
    assert lost_files("in protocols/machine.rst and `privfl/gone.py`") == ["protocols/machine.rst", "privfl/gone.py"]
    assert lost_files("in ledger.py and privfl/codec.py") == []
    lost = ["privfl.gone", "Gone", "Ring.gone", "Gone.reduce", "fl.gone", "codec.Gone", "privacy.nowhere"]
    assert lost_names(" ".join(f"`{name}`" for name in lost)) == ["privfl.gone", "Gone", *lost[2:]]
    assert (
        lost_names("`privfl.codec`, `privfl.ring.Ring.reduce`, `Ring`, `Ring.reduce`, `fl.plan`, `privacy.epsilon`")
        == []
    )


def test_the_machines_belong_to_specifications() -> None:
    for file in ROOT.glob("protocols/*/machine.toml"):
        assert tomllib.loads(file.read_text())
        assert (file.parent / "SPEC.md").exists()
