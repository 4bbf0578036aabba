"""The root of every error the market raises, sorted by who must act.

SpareError
├── Refusal              the caller must change something; answered 4xx with a hint that can be pasted
│   ├── InvalidInput         400  a value that cannot be used
│   ├── InsufficientCredit   402  not enough money for what was asked
│   ├── NotFound             404  no such thing, or it is not yours
│   └── Conflict             409  the state does not allow it, or the key was used for another payload
├── Outage               the world must change: retried later, answered 503
└── Breach               our own invariant is broken: that flow stops and somebody is paged
"""


class SpareError(Exception):
    """An error with a message for a person, and a hint: what to do next."""

    status = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refusal(SpareError):
    """The caller must change something."""

    status = 400


class InvalidInput(Refusal):
    """A value that cannot be used."""


class InsufficientCredit(Refusal):
    """Not enough money for what was asked."""

    status = 402


class NotFound(Refusal):
    """No such thing, or it is not yours."""

    status = 404


class Conflict(Refusal):
    """The state does not allow it."""

    status = 409


class Outage(SpareError):
    """The world must change: try again later."""

    status = 503


class Breach(SpareError):
    """Our own invariant is broken."""
