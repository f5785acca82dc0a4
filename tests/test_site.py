"""The documentation: its links lead somewhere, what it names exists, its programs run, and the site is whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import proponent
from pages import Page
from proponent.spec import Curvature, ModelSpec

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WRITTEN = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").glob("*.md")])
MADE = {DOCS / "cli.md", DOCS / "settings.md"}
BY_HAND = [path for path in WRITTEN if path not in MADE]
_FENCE = re.compile(r"^( *)```(\S*)([^\n]*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^()\s]+)\)|!\[[^\]]*\]\(([^()\s]+)\)")
_EXTERNAL = re.compile(r"https?://[\w.-]+\.\w+(:\d+)?(/\S*)?")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Of the headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"\s", "-", text) for text in plain} | {re.sub(r"[\s-]+", "-", text) for text in plain}


def links(path: Path) -> Iterator[str]:
    for match in _LINK.finditer(prose(path)):
        yield match[1] or match[2]


@pytest.mark.parametrize("path", WRITTEN, ids=name_of)
def test_links_lead_to_what_exists(path: Path) -> None:
    """Also those that GitHub alone shows; addresses elsewhere are checked in form, which needs no network."""
    for link in links(path):
        address, _, anchor = link.partition("#")
        if ":" in address:
            assert _EXTERNAL.fullmatch(address), link
            continue
        target = path if not address else (path.parent / address).resolve()
        made_while_building = target == DOCS / "api.md"
        assert target.exists() or made_while_building, f"{link}: there is no {target}"
        if anchor and target.name not in ("python_reference.md", "api.md"):
            assert anchor in anchors(target), f"{link}: {target.name} has no such heading"


def test_links_are_found() -> None:
    assert len(list(links(DOCS / "index.md"))) > 10


@pytest.mark.parametrize("path", [path for path in BY_HAND if path.parent == DOCS], ids=name_of)
def test_commands_and_flags_that_a_page_names_exist(path: Path) -> None:
    known = (DOCS / "cli.md").read_text(encoding="utf-8")
    for command in commands_of(path):
        assert f"### proponent {command.split()[1]}\n" in known, command
        flags = set(re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]+)", command))
        assert flags <= set(re.findall(r"`(--[a-z0-9-]+)`", known)) | {"--help"}, command


def commands_of(path: Path) -> list[str]:
    """Every command of this program in the code of a page, and flags that stand alone, as flags of ``serve``."""
    text = path.read_text(encoding="utf-8")
    fenced = "\n".join(match[4] for match in _FENCE.finditer(text)).replace("\\\n", " ")
    found = re.findall(r"^(?:\$ )?(proponent [a-z]+\b.*)$", fenced, re.MULTILINE)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(path))]
    found += [code for code in inline if re.match(r"proponent [a-z]+\b", code)]
    return found + [f"proponent serve {code}" for code in inline if code.startswith("--")]


def test_reasons_in_the_operators_table_are_the_services() -> None:
    reasons = re.findall(r"^\| `([A-Z_]+)` \|", (DOCS / "serving.md").read_text(encoding="utf-8"), re.MULTILINE)
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "serve" / "proponent").rglob("*.py"))
    assert len(reasons) > 4 and [reason for reason in reasons if f'"{reason}"' not in code] == []


def test_every_key_of_a_spec_is_described() -> None:
    keys, _, curvature = re.split(
        r"^## (?:Inputs|Curvature)$", (DOCS / "spec.md").read_text(encoding="utf-8"), flags=re.M
    )
    for part, model in ((keys, ModelSpec), (curvature, Curvature)):
        assert set(re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)) == set(model.model_fields)


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(
        r"^::: proponent\.(\w+)$", (DOCS / "python_reference.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(named) == sorted(proponent.__all__)


TUTORIALS = {
    "tutorial": (
        r"^(odd|even) 0\.\d+$",
        r"without these three the loss is predicted to change by [+-]\d",
        r"report\.html: 5 inputs explained",
    ),
    "tutorial_text": (
        r"^(positive|negative)$",
        r"^\+\d+\.\d+ (positive|negative): \w+",
        r"prediction: (positive|negative)",
        r"sentences-0-\d+ .*(positive|negative)",
    ),
    "tutorial_table": (
        r"^repaid$",
        r"^\+\d+\.\d+ repaid: \{",
        r"same: debt|debt: \d+",
        r"without these three the loss is predicted to change by [+-]\d",
        r"report\.html: 3 inputs explained",
    ),
}
"""What each prints."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", TUTORIALS)
def test_the_tutorials_run_as_they_stand(page: str, tmp_path: Path) -> None:
    """Files are written by their titles, commands run in order; blocks of ``console`` are shown, not run."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PROPONENT_STORE": ""}
    del environment["PROPONENT_STORE"]
    printed = ""
    for _, language, title, body in _FENCE.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        if found := re.search(r'title="([^"]+)"', title):
            (tmp_path / found[1]).write_text(body, encoding="utf-8")
        elif language == "sh":
            done = subprocess.run(["sh", "-euc", body], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, body + done.stdout + done.stderr
            printed += done.stdout
    for expected in TUTORIALS[page]:
        assert re.search(expected, printed, re.MULTILINE), (expected, printed)
    if "suspects.html" in (DOCS / f"{page}.md").read_text(encoding="utf-8"):
        assert (tmp_path / "suspects.html").is_file()


@pytest.mark.slow
def test_the_site_is_whole_and_asks_nobody(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # as scripts/docs: a notice about the tool's own future
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    assert {f"{path.stem}.html" for path in DOCS.glob("*.md")} | {"api.html"} <= set(pages)
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?([^\"' >]+)", text)
        loaded += re.findall(
            r"<link[^>]+rel=[\"']?(?:stylesheet|preload|icon|preconnect)[^>]+href=[\"']?([^\"' >]+)", text
        )
        assert loaded and [address for address in loaded if re.match(r"(https?:)?//", address)] == [], name
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//", styles) == []
    api = pages["api.html"]
    for expected in ("EstimateRemoval", 'id="type-explainresponse"', "POST /v1/models/{model}:explain"):
        assert expected in api
    assert 'id="proponent.Explainer.explain"' in pages["python_reference.html"]
    assert (site / "search" / "search_index.json").stat().st_size > 100_000


def test_a_page_of_html_is_read_as_it_is() -> None:
    """What the other tests see pages with."""
    page = Page('<p class="a b">1<b id=x>2</b></p><img src="http://other/x.png">')
    assert page.texts("p", "b") == ["1 2"] and list(page.addresses()) == ["http://other/x.png"]
