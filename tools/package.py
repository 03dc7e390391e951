"""The wheel and the source archive, built from this checkout, installed where nothing else is, and tried.

`make package` runs it. The environments are made in `build/package`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from tools.common import ROOT, attempt, build, copy_checkout, new_environment, output_of, uv

FOLDER: Final = ROOT / "build" / "package"
IN_ARCHIVE: Final = (  # one file of each kind that the source archive must hold
    "tests/conftest.py",
    "tests/vectors/test_fixed_point.py",
    "docs/index.md",
    "docs/conf.py",
    "protocols/masked-sum/SPEC.md",
    "protocols/masked-sum/reference.py",
    "examples/breast_cancer.toml",
    "tools/package.py",
    "CHANGELOG.md",
    "CITATION.cff",
    "SECURITY.md",
    "LICENSE",
    "Makefile",
    "constraints.txt",
)
MISSING: Final = """
import json
from privfl.errors import MissingExtra

def load_bundled():
    from privfl.data import load
    load("breast_cancer")

def judge():
    from privfl.cli.app import run
    raise SystemExit(run("epsilon --sampling poisson --population 1000 --cohort 10 --noise-multiplier 1 --rounds 9 "
                         "--delta 1e-5 --debug".split()))

def draw():
    from privfl.report.canvas import new_figure
    new_figure(4.0, 3.0)

def encrypt():
    from privfl.he.seal import self_test
    self_test()

def use_torch():
    import privfl.adapters.torch

def use_opacus():
    import privfl.adapters.opacus

messages = []
for use in (load_bundled, judge, draw, encrypt, use_torch, use_opacus):
    try:
        use()
    except MissingExtra as error:
        messages.append(str(error))
print(json.dumps(messages))
"""
EXTRAS: Final = ("data", "dp", "plot", "he", "torch", "opacus")  # that the six uses above need, in their order


def check(true: object, what: str) -> None:
    """Print `what` if it is true; end the program with `what` if it is not."""
    if not true:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}", flush=True)


def check_contents(wheel: Path, archive: Path) -> None:
    """Check what is in the two archives.

    Args:
        wheel: the wheel, which holds the package and its metadata alone.
        archive: the source archive, which holds `IN_ARCHIVE` and every file of the package that the wheel has.
    """
    with zipfile.ZipFile(wheel) as opened:
        inside = set(opened.namelist())
    with tarfile.open(archive) as opened_archive:
        stored = {name.partition("/")[2] for name in opened_archive.getnames()}
    tops = {name.partition("/")[0] for name in inside}
    check(
        tops == {"privfl", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}, "the wheel holds privfl alone"
    )
    check("privfl/py.typed" in inside, "the wheel holds the type marker")
    absent = [name for name in IN_ARCHIVE if name not in stored]
    check(not absent, f"the source archive holds tests, documents and protocols {absent or ''}".strip())
    check({name for name in inside if name.startswith("privfl/")} <= stored, "it holds every file of the wheel")


def check_core(python: Path, elsewhere: Path) -> None:
    """Check an environment with privfl and nothing that an extra brings.

    Args:
        python: the environment's interpreter.
        elsewhere: an empty folder to work in.
    """
    program = python.parent / "privfl"
    output_of([python, "-W", "error", "-c", "import privfl.secagg"], elsewhere)
    check(True, "privfl.secagg is imported")
    shown = output_of([program, "--version"], elsewhere)
    check(shown.startswith("privfl "), f"--version prints {shown.strip()}")
    facts = json.loads(output_of([program, "doctor", "--json"], elsewhere))
    check(facts["install"] == f"pip install 'privfl[{','.join(sorted(EXTRAS))}]'", "doctor names the missing extras")
    messages = json.loads(output_of([python, "-c", MISSING], elsewhere).splitlines()[-1])
    expected = [f"pip install 'privfl[{extra}]'" for extra in EXTRAS]
    check([m.partition("run: ")[2] for m in messages] == expected, f"each missing extra is named: {', '.join(EXTRAS)}")
    demo = attempt([program, "demo"], elsewhere)
    check(demo.code == 2 and "Traceback" not in demo.output, f"the demo reports what it lacks: {demo.output.strip()}")
    unknown = attempt([program, "bogus"], elsewhere)
    check(unknown.code == 2 and unknown.output.startswith("privfl: "), "a wrong command is one sentence")


def main() -> int:
    """Build, install and try; exits with the first thing that is not as it should be."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    source, archives = FOLDER / "source", FOLDER / "dist"
    copy_checkout(source)
    wheel, archive = build(source, archives)
    check_contents(wheel, archive)
    with tempfile.TemporaryDirectory() as elsewhere:
        core = new_environment(FOLDER / "core", sys.executable)
        uv("pip", "install", "--quiet", "--python", core, archive)
        print(f"== {archive.name}, core only", flush=True)
        check_core(core, Path(elsewhere))
        demo = new_environment(FOLDER / "demo", sys.executable)
        uv("pip", "install", "--quiet", "--python", demo, f"{wheel}[demo]")
        print(f"== {wheel.name} with the extra demo", flush=True)
        told = json.loads(output_of([demo.parent / "privfl", "demo", "--json"], Path(elsewhere)))
        check(told["accuracy"] > 0.9, f"the demo's accuracy is {told['accuracy']:.3f}")
        check(Path(elsewhere, told["plot"]).is_file(), "and its plot is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
