"""Errors that a person can act on.

Every error that reaches a user is a `CapError`: one sentence with the fact, then the next step.
The command line prints it as `Error: …` and exits with 1.
"""

from __future__ import annotations

__all__ = [
    "CapError",
    "FetchError",
    "LockedError",
    "MissingExtraError",
    "PhotoError",
    "ReleaseError",
    "TableError",
    "UnknownNameError",
]


class CapError(Exception):
    """Something could not be done; the message says what, and what to do next."""


class TableError(CapError):
    """A table does not match its schema, or cannot be read."""


class LockedError(CapError):
    """Another process is writing this workspace."""


class PhotoError(CapError):
    """The bytes of a photo cannot be used; the message becomes the row's `error`."""


class FetchError(CapError):
    """A URL did not give what it should; the message becomes the row's `error`.

    Attributes
    ----------
    transient
        Whether asking again later may succeed.
    retry_after
        Seconds after which the server wants to be asked again, if it said so.
    """

    def __init__(
        self, message: str, *, transient: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after = retry_after


class UnknownNameError(CapError):
    """A class, background or licence is not in the vocabulary."""


class ReleaseError(CapError):
    """A release is incomplete, altered, or made for another schema."""


class MissingExtraError(CapError):
    """A command needs packages that the core install leaves out."""
