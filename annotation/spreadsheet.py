"""Text cells that a spreadsheet must not take for formulas.

A spreadsheet that opens a CSV or TSV file computes cells that begin with `=`, `+`, `-` or `@`,
which changes them and may run what a stranger wrote. An apostrophe before such a cell stops it.
Cells that begin with apostrophes before one of these signs get one more, so that taking one away
gives back exactly what was written.
"""

from __future__ import annotations

import re

__all__ = ["guarded", "unguarded"]

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def guarded(cell: str) -> str:
    """The cell, with an apostrophe before it if a spreadsheet would compute it.

    Notes
    -----
    The signs are those of OWASP's page "CSV Injection".
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """The cell that `guarded` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
