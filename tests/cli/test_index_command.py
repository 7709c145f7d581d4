"""`learn2splat index`: the file, what is printed, and what is refused."""

import json

from tiny_scenes import write_colmap

from learn2splat import load_scene
from learn2splat.cli import main
from learn2splat.scenes.views import choose_views


def test_the_file_holds_what_is_chosen_and_null_for_scenes_that_are_too_small(tmp_path, capsys):
    large, small = write_colmap(tmp_path / "large", 12), write_colmap(tmp_path / "small", 3)
    out = tmp_path / "index.json"
    command = ["index", str(large), str(small), "--context-views", "4", "--targets", "3", "--window", "9", "--out", str(out)]
    assert main(command) == 0
    context, target = choose_views(load_scene(large), 4, targets=3, window=9)
    assert json.loads(out.read_text()) == {"large": {"context": list(context), "target": list(target)}, "small": None}
    told = capsys.readouterr()
    assert f"context {', '.join(map(str, context))}" in told.out and "small has 3 photos, too few for 4 context views" in told.err
    before = out.read_bytes()
    assert main(command) == 2 and "add --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and out.read_bytes() == before


def test_what_is_refused(tmp_path, sentence):
    scene = write_colmap(tmp_path / "tiny", 6)
    out = tmp_path / "index.json"
    for options in (["--context-views", "0"], ["--targets", "0"], ["--window", "8"]):
        assert "must be at least 1, and --window larger" in sentence("index", scene, "--out", out, *options)
    assert "two scenes are called tiny" in sentence("index", scene, scene, "--context-views", "2", "--targets", "1", "--out", out)[-200:]
    assert not out.exists()
