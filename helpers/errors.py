"""The errors that helpers raise: each message says what happened, where, and what to do next.

WalkthroughError
├── DataError       a data file is missing, damaged or of another shape
├── ArtifactError   a trained artefact is missing, changed or made with other versions
├── TrainingError   a training run cannot start or go on
├── CheckError      a claim of a notebook does not hold
└── RunnerError     a notebook cannot be run as asked
"""


class WalkthroughError(Exception):
    """Base of every error that this package raises on purpose."""


class DataError(WalkthroughError):
    """A data file is missing, damaged, or holds something else than expected."""


class ArtifactError(WalkthroughError):
    """A trained artefact is missing, differs from its checksum, or was made with other versions."""


class TrainingError(WalkthroughError):
    """A training run cannot start or cannot go on."""


class CheckError(WalkthroughError):
    """A claim that a notebook's prose makes does not hold."""


class RunnerError(WalkthroughError):
    """A notebook cannot be run as asked: unknown notebook, parameter or value."""
