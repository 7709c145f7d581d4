"""What somebody gets who installs or unpacks the package."""

import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import learn2splat

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Names in it, below its one folder, and its size."""
    out = tmp_path_factory.mktemp("sdist")
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}, path.stat().st_size


def test_a_source_archive_has_what_building_and_the_license_need_and_no_results(sdist):
    names, size = sdist
    assert {"LICENSE", "NOTICE", "README.md", "CMakeLists.txt", "pyproject.toml", "native/bindings.cpp"} <= names
    assert {"src/learn2splat/py.typed", "src/learn2splat/weights/default.safetensors", "src/learn2splat/bench/report.js"} <= names
    assert not [name for name in names if name.startswith(("training", "benchmarks/results", "out/", "runs/", ".ci", "build/"))]
    assert size < 5_000_000


def test_the_metadata_names_the_license_and_true_bounds():
    about = metadata("learn2splat")
    assert about["License-Expression"] == "MIT" and {"LICENSE", "NOTICE"} <= set(about.get_all("License-File"))
    assert "Typing :: Typed" in about.get_all("Classifier")
    needed = {r.name: r.specifier for r in map(Requirement, requires("learn2splat")) if r.marker is None or "extra" not in str(r.marker)}
    for name, too_old in {"torch": "2.9.1", "pillow": "10.2", "pycolmap": "3.13"}.items():  # CVEs, and an interface that this package does not use
        assert Version(too_old) not in needed[name] and Version(version(name).partition("+")[0]) in needed[name]
    assert re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1] == learn2splat.__version__


def test_types_are_there():
    folder = Path(learn2splat.__file__).parent
    assert (folder / "py.typed").is_file()
    native = Path(sys.modules["learn2splat._native"].__file__) if "learn2splat._native" in sys.modules else None
    assert native is None or (native.parent / "_native.pyi").is_file()


SIDE_EFFECTS = """
import os, signal, sys, warnings
import torch
signals, environment, threads = [signal.getsignal(n) for n in range(1, 32) if n not in (9, 19)], dict(os.environ), torch.get_num_threads()
state, filters, before = torch.get_rng_state(), list(warnings.filters), set(sys.modules)
import learn2splat
assert [signal.getsignal(n) for n in range(1, 32) if n not in (9, 19)] == signals
assert dict(os.environ) == environment and torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
assert warnings.filters == filters
heavy = {"pycolmap", "safetensors", "scipy", "matplotlib", "rich", "tyro", "imageio", "plyfile", "PIL"}
print(*sorted(heavy & {name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_it_changes_nothing_in_its_host():
    done = subprocess.run([sys.executable, "-c", SIDE_EFFECTS], capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": ""})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"
