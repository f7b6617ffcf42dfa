"""What a table is, where tables and photos lie, and how a released split is loaded.

This package needs pyarrow, Pillow, NumPy and click only; `load_split` is its public door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manifests.loader import Split, load_split

__all__ = ["Split", "__version__", "load_split"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The loader brings Arrow and Pillow; whoever only asks for the version should not wait for it.
    if name in {"Split", "load_split"}:
        from manifests import loader

        return getattr(loader, name)
    msg = f"module 'manifests' has no attribute {name!r}"
    raise AttributeError(msg)
