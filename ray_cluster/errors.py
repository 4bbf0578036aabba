"""Every error of the Ray side, sorted by who must act.

ClusterError
├── Refusal              whoever started the program must change something
│   ├── InvalidInput     a value that cannot be used
│   ├── Denied           the market does not accept this token or this device
│   └── Conflict         something else already runs here under this name
├── Outage               the world must change: the market, the network or Ray; tried again later
└── Breach               our own invariant is broken
"""


class ClusterError(Exception):
    """An error with a message for a person, and a hint: what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refusal(ClusterError):
    """Whoever started the program must change something."""


class InvalidInput(Refusal):
    """A value that cannot be used."""


class Denied(Refusal):
    """The market does not accept this token or this device."""


class Conflict(Refusal):
    """Something else already runs here under this name."""


class Outage(ClusterError):
    """The world must change: try again later."""


class Breach(ClusterError):
    """Our own invariant is broken."""
