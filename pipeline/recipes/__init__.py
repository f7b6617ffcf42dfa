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


def write_recipe(folder: Path, name: str, **values: str) -> Path:
    """Make `folder` a workspace by writing a recipe's `cap.toml`; gives its path.

    Where the recipe says `{name}`, the value of that name is put in.

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
    text = (resources.files(__name__) / f"{name}.toml").read_text("utf-8")
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    write_bytes(path, text.encode())
    return path
