"""The documentation is built without a warning, and no link inside it leads nowhere."""

import importlib
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
EXPORTING = [
    f"privfl.{name}"
    for name in ("experiment", "fl", "engine", "adapters.torch", "sums", "secagg", "he", "crypto", "dp", "data")
]


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors.add(known.get("id") or "")
        self.links += [link for link in (known.get("href"), known.get("src")) if link]


def broken(folder: Path) -> list[str]:
    """Links within `folder` to files or anchors that are not there."""
    pages = {path.resolve(): Page(path.read_text()) for path in folder.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else None
            if not target.exists() or (parts.fragment and anchors and unquote(parts.fragment) not in anchors):
                found.append(f"{path.name}: {link}")
    return found


@pytest.mark.slow
def test_the_documentation_is_built_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api.html").exists()
    assert broken(tmp_path) == []
    anchors = {anchor.split(".")[-1] for anchor in Page((tmp_path / "api.html").read_text()).anchors if anchor}
    for name in EXPORTING:
        missing = {export for export in importlib.import_module(name).__all__ if export not in anchors}
        assert not missing, f"{name} exports {missing}, which the API page does not have"
    assert {"load_credentials", "ConfigError", "TooFewSurvivors", "TorchTrain", "OpacusTrain"} <= anchors


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"></p><a href="#here"></a><a href="b.html#there"></a><a href="c.html"></a><a href="#gone"></a>'
        '<a href="https://example.org/x"></a><img src="b.html">'
    )
    (tmp_path / "b.html").write_text('<p id="else"></p>')
    assert broken(tmp_path) == ["a.html: b.html#there", "a.html: c.html", "a.html: #gone"]
