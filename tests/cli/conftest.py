"""Fixtures of the command-line tests: a COLMAP folder on disk and a finished fit of it."""

import pytest
from tiny_scenes import write_colmap

from learn2splat.cli import main


@pytest.fixture(autouse=True, scope="package")
def _on_one_thread(one_thread):
    """See tests/conftest.py."""


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory):
    """A tiny COLMAP scene; not to be changed."""
    return write_colmap(tmp_path_factory.mktemp("scenes") / "tiny")


@pytest.fixture(scope="session")
def fitted(scene_folder, tmp_path_factory):
    """The results of `fit --steps 12` on it; not to be changed."""
    out = tmp_path_factory.mktemp("results") / "tiny"
    assert main(["fit", str(scene_folder), "--optimizer", "nominal", "--steps", "12", "--out", str(out)]) == 0
    return out


@pytest.fixture
def sentence(capsys):
    """Runs a command that must fail: exit code 2, nothing on stdout, and exactly one line on stderr, which is returned."""

    def run(*argv):
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        lines = err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("learn2splat: "), err
        return lines[0].removeprefix("learn2splat: ")

    return run
