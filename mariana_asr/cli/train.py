"""``mariana-asr train``: a whole recipe, from recordings to a word error rate."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import allow_pipes_option, existing_path, jobs_option, new_path
from mariana_asr.cli.console import print_table
from mariana_asr.cli.team import with_team
from mariana_asr.logs import log_to_file
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.score.report import REPORT_FILE
from mariana_asr.score.results import read_results


@click.command("train")
@click.argument("recipe", type=existing_path)
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option(
    "--exp",
    "exp_dir",
    type=new_path,
    default=Path("exp"),
    show_default=True,
    help="Folder of experiments; outputs go to EXP/NAME.",
)
@click.option("--dry-run", is_flag=True, help="Only say which stages would run, and why.")
@jobs_option
@allow_pipes_option
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    exp_dir: Path,
    dry_run: bool,
    jobs: int,
    allow_pipes: bool,
) -> None:
    """Train and evaluate what RECIPE describes.

    Stages that are up to date are skipped, and a run that was interrupted goes on where it
    stopped. SECTION.KEY=VALUE words override the recipe, for example model.hidden_dim=2048.
    """
    loaded = load_recipe(recipe, overrides)
    folder = exp_dir / loaded.name
    experiment = Experiment(loaded, folder, jobs=jobs, allow_pipes=allow_pipes)
    if dry_run:
        rows = [(p.stage.name, p.status, p.reason) for p in experiment.plan()]
        print_table(f"Stages of {folder}", ("stage", "status", "why"), rows)
        return

    def lead() -> None:
        log_to_file(folder / "log.txt")
        experiment.run()
        print_results(folder)

    with_team(lead)


def print_results(folder: Path) -> None:
    """Print an experiment's error rates and where its report is."""
    rows = [
        (r.system, r.test_set, r.metric.upper(), r.percent, f"{r.errors}/{r.tokens}", r.tuned_on)
        for r in read_results(folder)
    ]
    header = ("system", "test set", "metric", "%", "errors", "weights tuned on")
    print_table(f"Results of {folder}", header, rows)
    click.echo(f"Report: {folder / 'report' / REPORT_FILE}")
