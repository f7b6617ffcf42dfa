"""Write what follows from the code: pages of tables and commands, and the README's command list.

`python docs/generate.py` writes them; `--check` only says whether they are as the code has them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from manifests.schema import SCHEMA_VERSION, TABLES, TableSchema
from pipeline.cli import cap

DOCS = Path(__file__).resolve().parent
README = DOCS.parent / "README.md"
BEGIN, END = "<!-- commands: generated -->\n", "<!-- end of commands -->\n"


def table_page(spec: TableSchema) -> str:
    """The section of one table: what a row is, then a line per column."""
    rows = [
        f"| {'**' + column.name + '**' if column.name in spec.key else column.name} "
        f"| {column.type} | {'' if column.nullable else 'no'} | {spec.meaning(column.name)} |"
        for column in spec.schema
    ]
    return "\n".join(
        [
            f"## {spec.name}",
            "",
            spec.summary,
            "",
            "| column | type | null | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def tables_page() -> str:
    """All of `docs/tables.md`."""
    head = (
        "# Tables\n\n"
        "Generated from `manifests/schema.py` by `make docs`. Bold columns are the key, by which a "
        "table is sorted; `no` means that a column is never null. Times are UTC, fractions run "
        f"from 0 to 1. Schema version {SCHEMA_VERSION}.\n\n"
    )
    return head + "\n".join(table_page(spec) for spec in TABLES.values())


def commands(group: click.Group = cap, prefix: str = "cap") -> list[tuple[str, click.Command]]:
    """Every command with its full name."""
    found = []
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            found += commands(command, f"{prefix} {name}")
        else:
            found.append((f"{prefix} {name}", command))
    return found


def command_page(name: str, command: click.Command) -> str:
    """The section of one command: its help, as `--help` prints it."""
    context = click.Context(
        command, info_name=name, terminal_width=80, help_option_names=["-h", "--help"]
    )
    return f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


def commands_page() -> str:
    """All of `docs/commands.md`."""
    head = (
        "# Commands\n\n"
        "Generated from the commands by `make docs`. Each option is also a key in `cap.toml` "
        "(`[dedup] distance = 6`) and a variable (`CAP_DEDUP_DISTANCE=6`); a flag beats a "
        "variable, a variable the file.\n\n"
    )
    return head + "\n".join(command_page(name, command) for name, command in commands())


def readme() -> str:
    """The README with its command list brought up to date."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = "\n".join(
        f"| `{name}` | {command.get_short_help_str(limit=100)} |" for name, command in commands()
    )
    return f"{before}{BEGIN}\n| command | what it does |\n|---|---|\n{rows}\n\n{END}{after}"


def main() -> None:
    """Write the pages, or check them."""
    pages = {
        DOCS / "tables.md": tables_page(),
        DOCS / "commands.md": commands_page(),
        README: readme(),
    }
    for path, text in pages.items():
        if "--check" not in sys.argv:
            path.write_text(text, "utf-8")
        elif path.read_text("utf-8") != text:
            sys.exit(f"{path.name} is not as the code has it; run `make docs`")


if __name__ == "__main__":
    main()
