"""From a stage's dataclass to click options, and from `cap.toml` to their defaults.

click itself resolves flag, variable, file and default, in this order: variables through
`auto_envvar_prefix`, the file through `default_map`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from manifests.errors import CapError

__all__ = ["build", "defaults_from", "parameters_of", "stage_options"]

Function = TypeVar("Function", bound=Callable[..., Any])
Parameters = TypeVar("Parameters")


class CommaList(click.ParamType[tuple[str, ...]]):
    """A list written `A,B` on the command line and `["A", "B"]` in a file."""

    name = "list"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        del param, ctx
        if isinstance(value, str):
            value = value.split(",")
        # A file may have a single number where a list is meant.
        parts = value if isinstance(value, list | tuple) else [value]
        return tuple(str(part).strip() for part in parts if str(part).strip())


class Specs(click.ParamType[str]):
    """A model of several; a variable holds them separated by commas."""

    name = "specs"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        del param, ctx
        return str(value).strip()


_LEAST = {"natural": 0, "positive": 1}


def _scalar(annotation: object) -> type:
    """`int` of `int | None`, and so on."""
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not types.NoneType)
    return typing.cast("type", annotation)


def _click_parameter(
    field: dataclasses.Field[Any], annotation: object, variables: str
) -> Callable[[Any], Any]:
    about = field.metadata
    if about["argument"]:
        # click derives the variable of an option by itself, but not that of an argument.
        variable = f"{variables}_{field.name.upper()}"
        return click.argument(
            field.name, required=False, metavar=field.name.upper(), envvar=variable
        )
    flag = f"--{field.name.replace('_', '-')}"
    scalar = _scalar(annotation)
    if scalar is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=field.default, help=about["text"])
    kind: Any = CommaList() if about["kind"] == "list" else scalar
    if about["kind"] == "models":
        kind = Specs()
    if about["kind"] in _LEAST:
        kind = click.IntRange(min=_LEAST[about["kind"]])
    if about["choices"]:
        kind = click.Choice(about["choices"])
    return click.option(
        flag,
        type=kind,
        multiple=about["kind"] == "models",
        default=field.default,
        help=about["text"],
        metavar=about["metavar"],
        show_default=field.default not in (None, ()),
    )


def stage_options(parameters: type, variables: str) -> Callable[[Function], Function]:
    """A decorator that gives a command one option for each field of `parameters`.

    Parameters
    ----------
    parameters
        The stage's dataclass.
    variables
        What the names of the command's environment variables begin with, such as `CAP_RELEASE`.
    """

    def decorate(function: Function) -> Function:
        hints = typing.get_type_hints(parameters)
        for field in reversed(dataclasses.fields(parameters)):
            function = _click_parameter(field, hints[field.name], variables)(function)
        function.__dict__["stage_parameters"] = parameters
        return function

    return decorate


def build(parameters: type[Parameters], values: dict[str, Any]) -> Parameters:
    """The dataclass from what click resolved."""
    return parameters(**values)


def parameters_of(command: click.Command) -> type | None:
    """The dataclass whose fields are the command's options, if it has one."""
    found: type | None = getattr(command.callback, "stage_parameters", None)
    return found


_LABEL_SPACES = {"imagenet1k", "backgrounds", "confusing20", "classes"}
"""Label spaces that are no files."""


def _anchored(value: Any, kind: str, base: Path) -> Any:
    """A path in the file starts at the file's folder, not where the command is typed."""
    if kind == "models":
        specs = [value] if isinstance(value, str) else value
        return [_anchored(spec, "model", base) for spec in specs]
    if not isinstance(value, str) or "://" in value:
        return value
    if kind == "path" and (base / value).exists():
        return str(base / value)
    if kind == "path":
        return value if value in _LABEL_SPACES else str(base / value)
    if kind == "model":
        return ":".join(
            str(base / part) if (base / part).is_file() else part for part in value.split(":", 2)
        )
    return value


def _section(table: dict[str, Any], command: click.Command, base: Path, where: str) -> Any:
    if isinstance(command, click.Group):
        return _sections(table, command, base, f"{where}.")
    parameters = parameters_of(command)
    fields = {f.name: f for f in dataclasses.fields(parameters)} if parameters else {}
    for key, value in table.items():
        if key not in fields or isinstance(value, dict):
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it knows {', '.join(fields)}"
            msg = f"cap.toml: [{where}] has no setting {key!r}{hint}"
            raise CapError(msg)
    return {k: _anchored(v, fields[k].metadata["kind"], base) for k, v in table.items()}


def _sections(recipe: dict[str, Any], group: click.Group, base: Path, prefix: str) -> Any:
    defaults = {}
    for name, table in recipe.items():
        command = group.commands.get(name)
        if command is None or not isinstance(table, dict):
            known = ", ".join(group.commands)
            msg = f"cap.toml: no command is called {prefix}{name}; they are {known}"
            raise CapError(msg)
        defaults[name] = _section(table, command, base, f"{prefix}{name}")
    return defaults


def defaults_from(recipe: dict[str, Any], group: click.Group, base: Path) -> dict[str, Any]:
    """Click's `default_map` from a recipe.

    Raises
    ------
    CapError
        If the recipe names a command or an option that there is not.
    """
    stages = {name: value for name, value in recipe.items() if name != "label_space"}
    return typing.cast("dict[str, Any]", _sections(stages, group, base, ""))
