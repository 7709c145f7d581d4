"""Writing: whole or not at all, by however many writers and whatever interrupts it; one process per folder; strict JSON."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from learn2splat import files
from learn2splat.cli.result import render_names
from learn2splat.errors import OptionError, SaveError
from learn2splat.files import atomic_produce, atomic_write, clashing, file_name, is_ours, locked, parse_json, read_json, to_json


def test_two_writers_of_one_file_never_mix(tmp_path):
    """Each replaces it whole: a reader finds the bytes of one or of the other."""
    path = tmp_path / "state"
    contents = b"A" * 300_000, b"B" * 200_000
    atomic_write(path, contents[0])
    threads = [threading.Thread(target=lambda data=data: [atomic_write(path, data) for _ in range(40)]) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in contents
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ["state"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "full"), SafetensorError("full"), ValueError("own")])
def test_whatever_interrupts_a_write_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "file.txt"
    atomic_write(path, "old")

    def produce(temporary):
        temporary.write_text("ne")
        (temporary.parent / ".tmp1234").write_text("of a library")
        raise error

    with pytest.raises(SaveError if isinstance(error, (OSError, SafetensorError)) else type(error)):
        atomic_produce(path, produce)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    """As always on Windows, and on some network drives. The file itself is in place by then."""

    def denied(path, *more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.os, "open", denied)
    atomic_write(tmp_path / "new" / "deep" / "file.txt", "new")
    assert (tmp_path / "new" / "deep" / "file.txt").read_text() == "new"


def test_new_folders_are_synced_too(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "_sync_folder", synced.append)
    atomic_write(tmp_path / "a" / "b" / "file", "x")
    assert synced == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]


def test_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match="choose another place"):
        atomic_write(tmp_path / "file" / "below", "x")
    with pytest.raises(SaveError, match="choose another place"), locked(tmp_path / "file"):
        pass


HOLD = """
import sys; from pathlib import Path; from learn2splat.files import locked
with locked(Path(sys.argv[1])): print("have it", flush=True); sys.stdin.read()
"""


def test_a_folder_belongs_to_one_process_until_it_ends_or_dies(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "have it\n"
    with pytest.raises(OptionError, match="another process is writing into"), locked(tmp_path):
        pass
    other.kill()
    other.wait()
    left = tmp_path / "deep" / ".file.abcd_123.partial"
    left.mkdir(parents=True)
    (left / "file").write_text("hal")
    (tmp_path / ".mine.partial").write_text("not a name of ours")
    with locked(tmp_path):
        assert not left.exists() and (tmp_path / ".mine.partial").exists()
    with locked(tmp_path):
        pass


def test_whose_a_folder_is(tmp_path):
    assert not is_ours(tmp_path / "new", "config.json", "us") and not is_ours(tmp_path, "config.json", "us")
    with locked(tmp_path):
        assert not is_ours(tmp_path, "config.json", "us")  # our own lock does not count
    for content in ("", "[]", "{", '{"written_by": "them"}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(OptionError, match="holds files that us did not write"):
            is_ours(tmp_path, "config.json", "us")
    (tmp_path / "config.json").write_text('{"written_by": "us"}')
    assert is_ours(tmp_path, "config.json", "us")
    with pytest.raises(OptionError, match="is a file"):
        is_ours(tmp_path / "config.json", "config.json", "us")


def test_json_is_strict_both_ways(tmp_path):
    assert to_json({"a": [float("nan"), 1.5, (float("inf"),)]}) == '{"a": [null, 1.5, [null]]}'
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "bom.json") == {"a": 1}
    for text in ("NaN", "[-Infinity]", "1e999", "9" * 400, str(2**63), "[" * 100_000, b"\xff\xfe", "{"):
        with pytest.raises(ValueError):
            parse_json(text)
    assert parse_json(str(-(2**63))) == -(2**63)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "...", "", "<!--<script>", "%2e%2e", "ünïcode", "a\x00b", "CON: x", "a\nb"])
def test_file_names_stay_in_their_folder(name):
    short = file_name(name)
    assert short and "/" not in short and "\x00" not in short and not short.startswith(".") and file_name(short) == short


def test_names_that_differ_only_for_people_clash():
    assert clashing(["a b", "a_b", "c"]) == ["a b", "a_b"] and clashing(["Fern", "fern"]) == ["Fern", "fern"] and clashing(["a", "b", "a.b"]) == []


@given(st.lists(st.text(max_size=40), unique=True, max_size=6))
def test_any_names_of_photos_have_renders_of_their_own_inside_the_folder(names):
    scene = SimpleNamespace(test_idx=tuple(range(len(names))), image_names=tuple(names))
    files = render_names(scene)
    assert len({file.casefold() for file in files}) == len(names)
    assert all(Path(file).name == file and len(file.encode()) < 255 for file in files)
