"""The rules of plain words: what a docstring, a page and a name may not be. `make style` lists what breaks them."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_WORDS = 30

OPENINGS = {"what", "whether", "where", "how", "who", "whose", "why", "when", "whoever", "whatever", "whichever"}

IDIOMS = {
    r"(?:fall|falls|falling|fell|fallen|be|is|are|was|were|go|goes|went) silent": "drop out",
    r"tell|tells|told|telling": "report, reveal, release, state",
    r"whoever|whomever": "any party that, every client that",
    r"whatever|whichever": "every, each, any",
    r"so that": "so, because (or split the sentence)",
    r"but for": "except",
    r"anew|afresh": "again",
    r"beside": "next to",
    r"ever after": "from then on",
    r"by and by": "in batches",
    r"at last": "permanently, finally",
    r"eats?|eaten|drown|drowns|drowned|drowning": "consume; hide",
    r"at home|in earnest|in league": "locally, in production, colluding",
    r"talks? around|out of its hands": "bypass, released",
    r"stranger's word": "untrusted input",
    r"is worth|are worth|worth of": "the epsilon of, what it guarantees",
    r"drawn": "sampled",
    r"(?<!standard )deviations?": "standard deviation, stddev",
    r"any that|what one \w+ came to": "every ... that; the result of",
    r"for (?:it|they|he|she) (?:is|are|has|have|was|were|would|can|cannot)": "because",
    r"for the errors?(?= *[.,;)]|$)": "; the error shows it",
    r"hand(?:s|ed)? out|shares? out": "give, return, split",
    r"fewer rows|of rows|rows of data|each row|row by row": "examples",
}
PATTERNS = {
    re.compile(rf"(?<![\w`.-])(?:{pattern})(?![\w`-])", re.IGNORECASE): plain for pattern, plain in IDIOMS.items()
}

BRITISH = re.compile(
    r"(?:(?:real|serial|normal|initial|final|general|minim|maxim|optim|summar|recogn|organ|standard|author|util|random|"
    r"symmetr|canonical|factor|parameter|penal|regular|synchron|visual|vector|linear|equal|local|central|custom)"
    r"is(?:e|es|ed|er|ers|ing|ation|ations)\b)|quantis|\blabell|\bmodell|travell|\bcancell(?:ed|ing)|\bsignall|\bmarshall(?:ed|ing)"
    r"|neighbour|behaviour|\bcolour|\bcentre|honour|favour|\boffences?\b|\bdefence|\blicence|judgement|catalogue|\bgrey\b"
    r"|artefact|\banalys(?:e|es|ed|ing)\b|\bwhilst\b|\bamongst\b|\bfulfil\b|programme\b|\bmetres?\b|\bpractis",
    re.IGNORECASE,
)
NAME = re.compile(r"^_?(?:least|most|greatest|largest|fewest)_|_(?:least|most|greatest|largest)$", re.IGNORECASE)
SECTION_HEAD = re.compile(r"(?:Args|Attributes|Returns|Raises|Yields|Placements):")
ABBREVIATION = re.compile(r"(?:^|\()(?:e\.g|i\.e|al|fig|cf|vs|eq|no|pp|[A-Za-z])\.$")
BARE = {"found", "whole", "kept", "told", "left", "drawn", "given", "said", "least", "most", "asked", "gone"}
HISTORY = re.compile(
    r"\b(?:this|previous|last|earlier) (?:commit|pull request|PR|edition)\b|\b(?:first|second) edition\b|\bused to be\b"
    r"|\bcommit [0-9a-f]{7,}\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Violation:
    """One place that breaks a rule.

    Attributes:
        path: The file, relative to the root of the project.
        line: Its line, from 1.
        rule: The name of the rule.
        plain: The plainer form.
    """

    path: str
    line: int
    rule: str
    plain: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.plain}"


def files() -> list[Path]:
    """The files under the rules: the library, the protocols, the pages and the examples."""
    chosen = [*ROOT.glob("privfl/**/*.py"), *ROOT.glob("protocols/*/*.py"), *ROOT.glob("examples/*.py")]
    chosen += [
        *ROOT.glob("protocols/*/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("[A-Z]*.md"),
        ROOT / "notebooks" / "README.md",
    ]
    return sorted(file for file in chosen if file.name != "CHANGELOG.md")  # it speaks of the past


def violations(path: str, text: str) -> list[Violation]:
    """Every violation of one file.

    Args:
        path: The name of the file; `.md` makes it a page, all else is Python.
        text: Its content.
    """
    found = list(_page(path, text) if path.endswith(".md") else _python(path, text))
    return sorted(found, key=lambda violation: (violation.line, violation.rule))


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of prose with the line (from 0) on which each begins.

    Code, tables, headings and list marks end a sentence; `code` counts as one word. A block that is indented by four
    or more after a blank line is code, except under a heading such as `Args:`.
    """
    words: list[str] = []
    start, fenced, outer, block, section, blank = 0, False, 0, False, False, True
    for at, line in enumerate([*text.splitlines(), ""]):
        bare = line.strip()
        if bare.startswith("```"):
            fenced = not fenced
        indent = len(line) - len(line.lstrip())
        if bare and not indent:
            section = bool(SECTION_HEAD.fullmatch(bare))
        block = bool(bare) and indent >= 4 and not section and (blank or block)
        blank = not bare or (blank and block)
        entry = re.match(r"(?:[-*] |\d+\. |\w+(?: \([^)]*\))?: |>>> |#)", bare)
        ends = fenced or block or not bare or bare.startswith(("|", "```", "#", ">>>")) or (indent > outer + 8)
        if (ends or entry or indent < outer) and words:
            yield start, " ".join(words)
            words = []
        outer = indent if entry or not words else outer
        if ends:
            continue
        for word in re.sub(r"`[^`]*`", "CODE", re.sub(r"\]\([^)]*\)", "]", bare)).split(" "):
            if not re.search(r"\w", word):
                continue
            start = start if words else at
            words.append(word)
            if re.search(r"[.!?][)\"'*_]*$", word) and not ABBREVIATION.search(word):
                yield start, " ".join(words)
                words = []


def _words(path: str, first: int, text: str, *, long: bool) -> Iterator[Violation]:
    clean = re.sub(r"``[^`]*``|`[^`\n]*`", lambda code: "`" + " " * (len(code[0]) - 2) + "`", text)
    for rule, plain in PATTERNS.items():
        for hit in rule.finditer(re.sub(r"\s", " ", clean)):
            line = first + clean.count("\n", 0, hit.start())
            yield Violation(path, line, "idiom", f"{' '.join(hit[0].split())!r}: write {plain}")
    for hit in HISTORY.finditer(clean):
        line = first + clean.count("\n", 0, hit.start())
        yield Violation(
            path, line, "history", f"{' '.join(hit[0].split())!r}: say what is, the CHANGELOG says what was"
        )
    if long:
        for at, sentence in sentences(text):
            length = len(sentence.split())
            if length > MAX_WORDS:
                beginning = " ".join(sentence.split()[:6])
                yield Violation(path, first + at, "long", f"{beginning!r} has {length} words: make it two sentences")


def _spelling(path: str, text: str) -> Iterator[Violation]:
    for hit in BRITISH.finditer(text):
        line = 1 + text.count("\n", 0, hit.start())
        yield Violation(path, line, "spelling", f"{hit[0]!r}: spell it the American way")


def _page(path: str, text: str) -> Iterator[Violation]:
    prose = re.sub(r"^```.*?^```$", lambda code: "\n" * code[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    yield from _words(path, 1, prose, long=True)
    yield from _spelling(path, text)


def _python(path: str, text: str) -> Iterator[Violation]:
    tree = ast.parse(text)
    yield from _spelling(path, text)
    docstrings = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        if docstring:
            expression = node.body[0]
            docstrings.add(expression.lineno)
            yield from _words(path, expression.lineno, docstring, long=True)
            first = re.match(r"\W*(\w+)", docstring)
            if first and first[1].lower() in OPENINGS:
                yield Violation(path, expression.lineno, "opening", f"{first[1]!r}: start with a noun or a verb")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield from _words(path, token.start[0], token.string.lstrip("#! "), long=False)
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Expr) else node  # an Expr is the text under a constant or a type
        if not isinstance(value, ast.Constant) or not isinstance(value.value, str) or value.lineno in docstrings:
            continue
        if isinstance(node, ast.Expr) or value.value.count(" ") >= 2:
            docstrings.add(value.lineno)
            yield from _words(path, value.lineno, value.value, long=isinstance(node, ast.Expr))
    yield from _names(path, tree)
    if path.startswith("privfl/"):  # the references in protocols/ cite the section that describes a function
        yield from _arguments(path, tree)


def _names(path: str, tree: ast.Module) -> Iterator[Violation]:
    seen: set[str] = set()
    for node in ast.walk(tree):
        defined = ""
        strict = False
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined, strict = node.name, True
        elif isinstance(node, ast.arg):
            defined, strict = node.arg, True
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined, strict = node.attr, True
        elif isinstance(node, ast.keyword) and node.arg:
            defined = node.arg
        if NAME.search(defined) and defined not in seen:
            seen.add(defined)
            line = getattr(node, "lineno", 1)
            yield Violation(path, line, "name", f"{defined}: name it min_... or max_...")
        elif strict and defined.lstrip("_") in BARE:
            line = getattr(node, "lineno", 1)
            yield Violation(path, line, "name", f"{defined}: name the thing by a noun")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id in BARE:
                    yield Violation(path, field.lineno, "name", f"{field.target.id}: name the thing by a noun")


def _arguments(path: str, parent: ast.AST) -> Iterator[Violation]:
    for node in getattr(parent, "body", []):
        if isinstance(node, ast.If):  # TYPE_CHECKING and the like
            yield from _arguments(path, node)
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        if any("command" in ast.unparse(d) or "overload" in ast.unparse(d) for d in node.decorator_list):
            continue  # the command line prints these docstrings, and describes each option at the option
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, ast.ClassDef):
            names = _fields(node)
            initializer = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            docstring += "\n" + (ast.get_docstring(initializer) or "" if initializer else "")
            yield from _arguments(path, node)
        else:
            names = _parameters(node)
            typer = any("typer." in ast.unparse(a.annotation) for a in _all(node.args) if a.annotation)
            if typer or re.match(r"See `[\w.]+`", docstring):
                continue
        if len(names) >= 2:
            missing = [
                name
                for name in names
                if not re.search(rf"^\s*\*?\*?{re.escape(name)}(?: \([^)]*\))?:", docstring, re.M)
            ]
            has_section = re.search(r"^\s*(?:Args|Attributes):$", docstring, re.M)
            if not has_section:
                section = "Attributes:" if isinstance(node, ast.ClassDef) and _is_data(node) else "Args:"
                yield Violation(
                    path, node.lineno, "arguments", f"{node.name}: describe {', '.join(names)} under {section}"
                )
            elif missing:
                yield Violation(path, node.lineno, "arguments", f"{node.name}: describe {', '.join(missing)} as well")


def _all(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [a.arg for a in _all(node.args) if a.arg not in ("self", "cls") and not a.arg.startswith("_")]


def _is_data(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(d) or ast.unparse(d).startswith("section(") for d in node.decorator_list)


def _fields(node: ast.ClassDef) -> list[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return _parameters(item)
    if not any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        return []
    return [
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and not item.target.id.startswith("_")
        and "ClassVar" not in ast.unparse(item.annotation)
        and not (item.value is not None and "init=False" in ast.unparse(item.value))
    ]


def main(names: list[str]) -> None:
    """Print every violation of the files, or of all that are under the rules."""
    chosen = [
        file for name in names for file in (sorted(Path(name).rglob("*")) if Path(name).is_dir() else [Path(name)])
    ]
    for file in chosen or files():
        if file.suffix in (".py", ".md"):
            place = file.resolve().relative_to(ROOT).as_posix()
            sys.stdout.writelines(f"{violation}\n" for violation in violations(place, file.read_text()))


if __name__ == "__main__":
    main(sys.argv[1:])
