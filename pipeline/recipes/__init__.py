"""Recipes: `cap.toml` files to start a workspace from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from manifests.errors import CapError
from manifests.tables import write_bytes

__all__ = ["names", "write_recipe"]


def names() -> tuple[str, ...]:
    """Names of the recipes, sorted."""
    files = resources.files(__name__).iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def write_recipe(folder: Path, name: str) -> Path:
    """Make `folder` a workspace by writing a recipe's `cap.toml`; gives its path.

    Raises
    ------
    CapError
        If there is no such recipe, or the folder is a workspace already.
    """
    if name not in names():
        msg = f"no recipe {name!r}; there are {', '.join(names())}"
        raise CapError(msg)
    path = folder / "cap.toml"
    if path.exists():
        msg = f"{folder} is a workspace already ({path}); edit that file"
        raise CapError(msg)
    write_bytes(path, (resources.files(__name__) / f"{name}.toml").read_bytes())
    return path
