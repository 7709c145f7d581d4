"""The package as a whole: what it exports, which way its imports flow, and that its documents agree with it."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from tiny_scenes import write_colmap

import learn2splat

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "learn2splat"
# docs/architecture.md: a folder imports only from those on its left.
ORDER = ["errors", "files", "scenes", "sfm", "gaussians", "render", "losses", "optimizers", "optim"]
ORDER += ["initializers", "density", "fitting", "meta", "bench", "viewer", "cli"]
# gaussians.init_random takes a Scene, render.render_views takes Gaussians: left to right. The one exception is the private native module.
NATIVE_USERS = {"gaussians", "render", "losses", "optimizers", "initializers"}


def test_public_names_are_those_of_all():
    public = {name for name in dir(learn2splat) if not name.startswith("_") and not inspect.ismodule(getattr(learn2splat, name))}
    assert public | {"__version__"} == set(learn2splat.__all__)


def test_the_promised_names_are_public():
    promised = {"load_scene", "Scene", "Gaussians", "rasterize", "photometric_loss", "make_optimizer", "fit", "psnr", "ssim"}
    assert promised < set(learn2splat.__all__)


MODULES = sorted(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for path in PACKAGE.rglob("*.py"))


def test_no_name_hides_a_module():
    """`import a.b as b` gives the module `b`, whatever else the package `a` exports."""
    hidden = []
    for name in MODULES:
        if name != "learn2splat.__main__":
            package, _, last = name.rpartition(".")
            module = importlib.import_module(name)
            hidden += [] if not package or getattr(sys.modules[package], last) is module else [name]
    assert hidden == []


def imports(path: Path) -> set[str]:
    """Top-level parts of learn2splat that the module at `path` imports, anywhere in it."""
    inside = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level + 1]
            module = [*base, *(node.module or "").split(".")] if node.module else [*base]
            found.update([module[0]] if module else [alias.name for alias in node.names])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("learn2splat"):
            found.add((node.module + ".").split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("learn2splat."))
    return found


def test_imports_flow_one_way():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        if len(parts) == 1 and parts[0] not in ("errors.py", "files.py"):
            continue  # the package's own __init__
        here = parts[0].removesuffix(".py")
        for other in imports(path):
            if other == "_native":
                wrong += [] if here in NATIVE_USERS else [f"{path.name} imports the native module"]
            elif other in ORDER and ORDER.index(other) > ORDER.index(here):
                wrong.append(f"{here}/{path.name} imports {other}, which lies to its right")
    assert wrong == []


def test_the_changelog_is_that_of_this_version():
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == version("learn2splat") == learn2splat.__version__


def test_the_readme_keeps_its_markers_and_its_picture():
    readme = (ROOT / "README.md").read_text()
    assert readme.count("<!-- results:begin -->") == readme.count("<!-- results:end -->") == 1
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert pictures and all((ROOT / picture).stat().st_size < 300_000 for picture in pictures)


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("00_fit_procedural.py", ["--steps", "2"]),
        ("01_own_scene.py", None),
        ("02_own_loop.py", ["--steps", "2"]),
        ("03_own_optimizer.py", ["--steps", "2"]),
        ("05_gsplat_trainer.py", ["--steps", "3"]),
    ],
)
def test_examples_run(script, options, tmp_path):
    if options is None:
        options = [str(write_colmap(tmp_path / "scene")), str(tmp_path / "splat.ply"), "--steps", "2"]
    command = [sys.executable, ROOT / "examples" / script, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "dB" in done.stdout
    assert script != "03_own_optimizer.py" or ("| sign-momentum |" in done.stdout and (tmp_path / "out/own/report.html").exists())
    assert script != "01_own_scene.py" or (tmp_path / "splat.ply").stat().st_size > 1000


def test_the_ten_lines_of_the_readme_run(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    scene = write_colmap(tmp_path / "scene")
    code = blocks[0].replace("path/to/scene", str(scene)).replace("steps=300", "steps=2")
    assert str(scene) in code and "steps=2" in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "splat.ply").exists()
