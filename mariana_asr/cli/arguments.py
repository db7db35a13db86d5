"""Arguments and options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mariana_asr.parallel import available_cores

existing_dir = click.Path(exists=True, file_okay=False, path_type=Path)
existing_path = click.Path(exists=True, path_type=Path)
new_path = click.Path(path_type=Path)

jobs_option = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=available_cores,
    show_default="all cores",
    help="Processes for what runs over utterances.",
)
allow_pipes_option = click.option(
    "--allow-pipes",
    is_flag=True,
    help="Run the commands in wav.scp that end in '|', in a shell.",
)


def assignments_argument(what: str) -> Callable[[Any], Any]:
    """Trailing KEY=VALUE words; ``what`` names in the help what they set."""

    def decorate(function: Any) -> Any:
        function.__doc__ += f"\n\n    KEY=VALUE words set {what}."
        return click.argument("assignments", nargs=-1, metavar="[KEY=VALUE]...")(function)

    return decorate
