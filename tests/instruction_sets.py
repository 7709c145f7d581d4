"""What a function of a test module returns on a CPU of a lower instruction set: native kernels exist once per set."""

import os
import subprocess
import sys

from safetensors.torch import load_file

from learn2splat import _native

LOWER = {"avx512": ["avx2", "base"], "avx2": ["base"], "base": []}[_native.isa()]


def results_of_lower(isa, module, function, folder):
    """The dict of tensors that `module.function()` returns in a new process that uses `isa`."""
    path = folder / "results.safetensors"
    environment = {**os.environ, "LEARN2SPLAT_ISA": isa, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = (
        f"import sys, {module} as t; from safetensors.torch import save_file; from learn2splat import _native; "
        f"save_file(t.{function}(), {str(path)!r}); sys.exit(_native.isa() != {isa!r})"
    )
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    return load_file(path)
