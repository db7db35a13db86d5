"""``mariana-asr sweep``: a recipe with many variants, and a table of their error rates."""

import shlex
from pathlib import Path

import click

from mariana_asr.cli.arguments import allow_pipes_option, existing_path, jobs_option, new_path
from mariana_asr.cli.console import print_table
from mariana_asr.cli.team import under_torchrun, with_team
from mariana_asr.errors import RecipeError, StageError, counted
from mariana_asr.files import write_text
from mariana_asr.logs import log_to_file
from mariana_asr.recipe.sweep import Outcome, Sweep
from mariana_asr.recipe.sweep_table import (
    check_choices,
    choose_systems,
    make_means,
    make_rows,
    tables_of,
    write_tables,
)
from mariana_asr.recipe.variants import make_variants


@click.command("sweep")
@click.argument("recipe", type=existing_path)
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--vary",
    multiple=True,
    metavar="SECTION.KEY=VALUE,VALUE,...",
    help="Run each of these values, with each of every other --vary.",
)
@click.option(
    "--variants",
    type=existing_path,
    help="YAML file of named variants, NAME: {SECTION.KEY: VALUE, ...}; with each of --vary.",
)
@click.option("--seeds", metavar="N,N,...", help="Run each variant with these train.seed.")
@click.option(
    "--system",
    "systems",
    multiple=True,
    help="System to show, such as tri3 or dnn, or all; by default each variant's last one.",
)
@click.option(
    "--mean",
    "mean_keys",
    multiple=True,
    metavar="SECTION.KEY",
    help="Also show means over the values of this key ('variants': over named variants).",
)
@click.option(
    "--exp",
    "exp_dir",
    type=new_path,
    default=Path("exp"),
    show_default=True,
    help="Folder of experiments; outputs go to EXP/NAME/sweep.",
)
@click.option(
    "--table",
    "table_name",
    default="sweep",
    show_default=True,
    help="Name of the tables' files, EXP/NAME/sweep/TABLE.md and .json.",
)
@click.option("--json", "json_file", type=new_path, help="Also write all figures to this file.")
@click.option("--dry-run", is_flag=True, help="Only say which stages would run.")
@jobs_option
@allow_pipes_option
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    vary: tuple[str, ...],
    variants: Path | None,
    seeds: str | None,
    systems: tuple[str, ...],
    mean_keys: tuple[str, ...],
    exp_dir: Path,
    table_name: str,
    json_file: Path | None,
    dry_run: bool,
    jobs: int,
    allow_pipes: bool,
) -> None:
    """Train and evaluate variants of RECIPE, and compare their error rates.

    Stages that variants have in common with each other or with the recipe's own experiment are
    made once. A variant that fails does not stop the others; a sweep that was interrupted goes on
    where it stopped. SECTION.KEY=VALUE words override the recipe for all variants:
    decode.sets=[dev] leaves the test sets alone.
    """
    sweep = Sweep(
        recipe,
        overrides,
        make_variants(vary, variants),
        _parse_seeds(seeds),
        exp_dir,
        jobs=jobs,
        allow_pipes=allow_pipes,
    )
    check_choices(sweep, systems, mean_keys)
    if dry_run:
        _print_plan(sweep)
        return
    words = ["mariana-asr", "sweep", str(recipe), *overrides]
    words += [word for value in vary for word in ("--vary", value)]
    words += ["--variants", str(variants)] if variants else []
    words += ["--seeds", seeds] if seeds else []
    words += [word for value in systems for word in ("--system", value)]
    words += [word for value in mean_keys for word in ("--mean", value)]

    def write(outcomes: list[Outcome]) -> None:
        rows = choose_systems(make_rows(outcomes), systems)
        means = make_means(rows, mean_keys) if mean_keys else []
        write_tables(sweep.folder, table_name, shlex.join(words), outcomes, rows, means)

    def lead() -> None:
        log_to_file(sweep.folder / "log.txt")
        # The processes of torchrun that take part in a training that fails do not come back.
        outcomes = sweep.run(keep_going=not under_torchrun(), after_each=write)
        rows = choose_systems(make_rows(outcomes), systems)
        for table in tables_of(rows, make_means(rows, mean_keys) if mean_keys else []):
            print_table(table.title, table.header, table.rows, table.numeric)
        click.echo(f"Tables: {sweep.folder / table_name}.md and .json")
        if json_file is not None:
            figures = (sweep.folder / f"{table_name}.json").read_text(encoding="utf-8")
            write_text(json_file, figures)
        _report_failures(outcomes)

    with_team(lead)


def _parse_seeds(words: str | None) -> list[int]:
    try:
        seeds = [int(word) for word in words.split(",")] if words else []
    except ValueError as error:
        raise RecipeError(
            f"{words!r} are not seeds", where="command line", remedy="Write for example 1,2,3"
        ) from error
    if len(set(seeds)) < len(seeds):
        raise RecipeError("a seed is given twice", where="command line")
    return seeds


def _print_plan(sweep: Sweep) -> None:
    rows = []
    seen: set[Path] = set()
    for run in sweep.runs:
        planned = run.experiment.plan()
        new = [p for p in planned if p.status != "up to date" and p.folder not in seen]
        seen |= {p.folder for p in new}
        names = ", ".join(p.stage.name for p in new)
        rows.append((run.label, len(planned), len(planned) - len(new), names))
    header = ("variant", "stages", "up to date or shared", "to run")
    print_table(f"Variants in {sweep.folder}", header, rows)


def _report_failures(outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        lines = [f"  {outcome.run.label}: {outcome.error}" for outcome in failed]
        raise StageError(
            f"{counted(len(failed), 'run')} of {len(outcomes)} failed:\n" + "\n".join(lines)
        )
