"""Parameters of stages: frozen dataclasses whose fields are also options, settings and variables.

`option` declares a field with all that the command line needs to know of it, so that the click
option, the key in `cap.toml` and the `CAP_…` variable cannot drift apart.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

__all__ = ["Kind", "option"]

Kind = Literal["value", "path", "model", "models", "list", "natural", "positive"]
"""How a text is read: a `path` or the file in a `model` SPEC is relative to where it is written.

`models` is an option that may be given several times, each time with a SPEC. A `natural` number is
0 or more, a `positive` one 1 or more.
"""


def option(
    default: object,
    text: str,
    *,
    kind: Kind = "value",
    choices: tuple[str, ...] = (),
    metavar: str | None = None,
    argument: bool = False,
) -> Any:
    """A dataclass field that the command line shows as an option.

    Parameters
    ----------
    default
        Value when neither flag, variable nor file gives one.
    text
        One line of help.
    kind
        How the text is read.
    choices
        The words allowed, if they are few.
    metavar
        Placeholder in the help; `N` for numbers.
    argument
        Whether it is a positional argument.
    """
    described = {
        "text": text,
        "kind": kind,
        "choices": choices,
        "metavar": "N" if metavar is None and kind in {"natural", "positive"} else metavar,
        "argument": argument,
    }
    return dataclasses.field(default=default, metadata=described)
