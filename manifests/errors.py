"""Errors that a person can act on.

Every error that reaches a user is a `CapError`: one sentence with the fact, then the next step.
The command line prints it as `Error: …` and exits with 1.
"""

from __future__ import annotations

__all__ = [
    "CapError",
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


class UnknownNameError(CapError):
    """A class, background or licence is not in the vocabulary."""


class ReleaseError(CapError):
    """A release is incomplete, altered, or made for another schema."""


class MissingExtraError(CapError):
    """A command needs packages that the core install leaves out."""
