"""What can go wrong, as one tree. Every user mistake is a `Learn2SplatError`.

    Learn2SplatError
    ├── ShapeError(ValueError)        a tensor has the wrong shape, dtype or device
    ├── SceneError(ValueError)        a scene cannot be read, or has too little in it to fit
    ├── PlyError(ValueError)          a splat file cannot be read, or holds non-finite numbers
    ├── CheckpointError(ValueError)   a checkpoint is unreadable, or belongs to another run
    ├── OptionError(ValueError)       an option has a value that makes no sense
    ├── SaveError(OSError)            a result could not be written (disk full, no permission)
    └── BackendError(RuntimeError)    a device or an optional package is not there

Messages say what was expected, what was found and what to do next. The command line prints the message as one sentence
and exits with code 2; `--debug` shows the trace.
"""


class Learn2SplatError(Exception):
    """Base of everything this package raises on purpose."""


class ShapeError(Learn2SplatError, ValueError):
    """A tensor has the wrong shape, dtype or device."""


class SceneError(Learn2SplatError, ValueError):
    """A scene cannot be read, or has too little in it to fit."""


class PlyError(Learn2SplatError, ValueError):
    """A splat file cannot be read, or holds non-finite numbers."""


class CheckpointError(Learn2SplatError, ValueError):
    """A checkpoint is unreadable, or belongs to another run."""


class OptionError(Learn2SplatError, ValueError):
    """An option has a value that makes no sense."""


class SaveError(Learn2SplatError, OSError):
    """A result could not be written."""


class BackendError(Learn2SplatError, RuntimeError):
    """A device or an optional package is not there."""
