"""What every command shares: its messages on the terminal, log files, and how it fails."""

import logging
import sys
from collections.abc import Collection, Sequence
from typing import Any

import click
from rich.console import Console, JustifyMethod
from rich.table import Table

from mariana_asr.errors import MarianaError


class Commands(click.Group):
    """A group whose commands are imported when they are called, so that starting is quick.

    A user's error becomes one message and exit status 1, without a traceback.
    """

    def __init__(self, *args: Any, commands_in: dict[str, str], **kwargs: Any) -> None:
        """``commands_in`` maps a command's name to the module below ``cli`` that holds it."""
        super().__init__(*args, **kwargs)
        self._modules = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the flow."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        from importlib import import_module

        if cmd_name not in self._modules:
            return None
        return import_module(f"mariana_asr.cli.{self._modules[cmd_name]}").command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print a user's error without a traceback."""
        try:
            return super().invoke(ctx)
        except MarianaError as error:
            logging.getLogger("mariana_asr").error("%s", error)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted; the same command goes on from here.", err=True)
            ctx.exit(130)


def print_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    numeric: Collection[int] = (),
) -> None:
    """Print a table on standard output; words to the left, numbers to the right.

    Args:
        title: What it shows.
        header: Names of the columns.
        rows: The cells of each row.
        numeric: Columns whose cells are numbers in words.
    """
    table = Table(title=title, title_justify="left")
    for column, name in enumerate(header):
        is_numeric = rows and all(isinstance(row[column], int | float) for row in rows)
        justify: JustifyMethod = "right" if is_numeric or column in numeric else "left"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
