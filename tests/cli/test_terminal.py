"""The command in a process of its own: terminals that lack letters, and what importing the package does to its host."""

import os
import subprocess
import sys

from tiny_scenes import write_colmap

RUN = """
import signal, sys
import learn2splat, learn2splat.cli
before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGSEGV)]
assert before == [signal.SIG_DFL] * 2, before
code = learn2splat.cli.main(sys.argv[1:])
assert "pycolmap" not in sys.modules  # only lens distortion needs it
from learn2splat.scenes._camera import import_pycolmap
import_pycolmap()
assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGSEGV)] == before
signal.raise_signal(signal.SIGTERM)
"""


def test_a_terminal_without_the_letters_of_a_name(tmp_path):
    """Windows consoles speak cp1252: names are printed with replacements, nothing is lost. SIGTERM afterwards ends the process without a trace."""
    scene = write_colmap(tmp_path / "场景", views=4)
    (scene / "images" / "view_03.png").unlink()
    command = [sys.executable, "-c", RUN, "fit", str(scene), "--steps", "1", "--out", str(tmp_path / "结果")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    out, err = done.stdout.decode("cp1252"), done.stderr.decode("cp1252")
    assert done.returncode == -15, err
    assert "??: PSNR" in out and "left out photo view_03.png" in err
    assert "Traceback" not in err and "SIGTERM" not in err
    assert (tmp_path / "结果" / "point_cloud.ply").is_file()
