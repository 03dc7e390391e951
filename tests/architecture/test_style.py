"""No docstring, page, comment or name of the project breaks a rule of plain words."""

import pytest
from style import ROOT, files, sentences, violations

PATHS = [file.relative_to(ROOT).as_posix() for file in files()]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_keeps_to_the_rules(path: str) -> None:
    found = violations(path, (ROOT / path).read_text())
    assert not found, "write it plainer:\n" + "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ("opening", 'def f():\n    """What a client sends."""'),
        ("opening", 'class A:\n    """Whether a client is in."""'),
        ("opening", '"""Where keys live."""'),
        ("idiom", 'def f():\n    """The clients that fall\n    silent."""'),
        ("idiom", "x = 1  # the server is told"),
        ("idiom", 'raise ValueError("the noise has a deviation of 3")'),
        ("idiom", 'A = 1\n"""Rounded, so that it fits."""'),
        ("idiom", 'def f():\n    """The kind, for the error."""'),
        ("long", 'def f():\n    """' + "word " * 31 + '."""'),
        ("long", 'A = 1\n"""' + "word " * 31 + '."""'),
        ("name", "def f(least_cohort): ..."),
        ("name", "most_rows = 3"),
        ("name", "_LARGEST = 3"),
        ("name", "f(least_rows=3)"),
        ("name", "class A:\n    told: int"),
        ("name", "def kept(): ..."),
        ("spelling", 'x = "neighbours"'),
        ("spelling", "def realise(): ..."),
        ("history", "# as of commit 1234567"),
        ("arguments", 'def f(a, *, b):\n    """Add a and b."""'),
        ("arguments", 'def f(a, *, b):\n    """Add.\n\n    Args:\n        a: One.\n    """'),
        ("arguments", 'class A:\n    """A."""\n\n    def f(self, a, b):\n        """Add."""'),
        ("arguments", '@dataclass\nclass A:\n    """A."""\n\n    a: int\n    b: int'),
        ("arguments", 'class A:\n    """A."""\n\n    def __init__(self, a, b): ...'),
    ],
)
def test_each_rule_can_fail(rule: str, code: str) -> None:
    assert [violation.rule for violation in violations("privfl/x.py", code)] == [rule]


@pytest.mark.parametrize(
    "code",
    [
        'def f():\n    """The standard deviation."""',
        'def f(a, b):\n    """Add.\n\n    Args:\n        a: One.\n        b (int): Another.\n    """',
        'def _f(a, b):\n    """Add."""',
        'class A:\n    """A."""\n\n    def f(self, a, b):\n        """See `Adder.f`."""',
        '@dataclass\nclass A:\n    """A.\n\n    Attributes:\n        a: 1.\n        b: 2."""\n\n    a: int\n    b: int',
        'def f():\n    """' + "word " * 29 + "end. " + "word " * 20 + '."""',
        'def f():\n    """Reads `told` and `whoever so that anew`."""',
        "found = [1]",
    ],
)
def test_plain_code_passes(code: str) -> None:
    assert violations("privfl/x.py", code) == []


def test_pages_are_read_without_their_code() -> None:
    page = "# Title\n\n```sh\ntell whoever\n```\n\nTell `whoever`. " + "word " * 31 + ".\n"
    assert [(v.rule, v.line) for v in violations("docs/x.md", page)] == [("idiom", 7), ("long", 7)]


def test_sentences_end_where_readers_end_them() -> None:
    text = "One of e.g. two (fig. 3). Two\nlines.\n\n- A mark\n- another `a. b. c`\n\n"
    text += "As follows:\n\n    code = 1\n    more = 2\n\nArgs:\n    a: Text\n        goes on.\n    b: More."
    assert [s for _, s in sentences(text)] == [
        "One of e.g. two (fig. 3).",
        "Two lines.",
        "A mark",
        "another CODE",
        "As follows:",
        "Args:",
        "a: Text goes on.",
        "b: More.",
    ]
