"""The documentation: it builds with strict links, its Python runs, its commands parse, and it knows every public name."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from tiny_scenes import write_colmap

import learn2splat
from learn2splat.cli import Commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_builds_and_loads_nothing_from_elsewhere(site):
    pages = list(site.glob("*.html"))
    assert {"index.html", "optimizer.html", "reference.html"} <= {page.name for page in pages}
    for page in pages:
        html = page.read_text()
        assert not re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?https?://(?!mkdocs|localhost)[^"' >]*\.(?:js|css|png|woff2?)""", html), (
            page.name
        )
        assert "<!-- constants" not in html and "<!-- table" not in html and "<!-- help" not in html and "arithmatex" not in html, page.name


def test_tables_and_equations_are_made(site):
    html = (site / "optimizer.html").read_text()
    assert html.count("<math") > 20 and "<code>trust_age</code>" in html and "<code>size_to_running</code>" in html
    assert "--max-seconds" in (site / "commands.html").read_text()


def test_every_public_name_is_in_the_reference():
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    missing = {name for name in learn2splat.__all__ if not any(path.split(".")[-1] == name for path in shown)}
    assert missing <= {"__version__", "Learn2SplatError", "load_ply", "save_ply", "render_views"}, missing


PROGRAMS = [page for page in PAGES if "```python" in page.read_text() and page.name != "architecture.md"]  # there are signatures


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.name)
def test_python_of_the_pages_runs(page, tmp_path, monkeypatch):
    write_colmap(tmp_path / "path/to/scene")
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"range\(\d+\)", "range(2)", re.sub(r"steps=\d{2,}", "steps=2", blocks(page, "python")))
    exec(compile(code, page.name, "exec"), {"__name__": page.stem})


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line that calls the program."""
    found = []
    for page in PAGES:
        if page.name in ("lab.md", "results.md", "model_card.md"):
            continue  # what was once run, with the options of then
        lines = [line.strip() for line in page.read_text().splitlines() if re.match(r"(    |\$ )learn2splat \w", line)]
        found += [(page.name, line) for line in lines if " ..." not in line]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_of_the_pages_parse(page, line):
    words = shlex.split(line, comments=True)[1:]
    try:
        tyro.cli(Commands, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit as error:
        pytest.fail(f"{page}: {line} does not parse ({error})")
