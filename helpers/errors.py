"""The errors that helpers raise: each message says what happened, where, and what to do next.

WalkthroughError
├── DataError       a data file is missing, damaged or of another shape
├── ArtifactError   a trained artefact is missing, changed or made with other versions
├── TrainingError   a training run cannot start or go on
├── CheckError      a claim of a notebook does not hold
├── RunnerError     a notebook cannot be run as asked
├── StackError      the local stack or the cluster cannot do what was asked
│   └── ManifestError   a manifest is wrong, or asks for what is not supported
├── ClientError     a deployed model, explainer or Prometheus refuses or does not answer
└── DashboardError  a dashboard cannot be drawn
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


class StackError(WalkthroughError):
    """The local stack or the cluster cannot do what was asked."""


class ManifestError(StackError):
    """A manifest is wrong or asks for what is not supported; says file, document and field."""


class ClientError(WalkthroughError):
    """A deployed server refuses a request, or does not answer.

    Args:
        message: what happened, where, and what to do next.
        status: the HTTP status; None where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class DashboardError(WalkthroughError):
    """A dashboard's file is wrong, or a panel asks for what the drawing does not know."""
