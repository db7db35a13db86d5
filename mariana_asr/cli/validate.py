"""``mariana-asr validate``: recipes and directories, without running anything."""

from collections.abc import Sequence
from pathlib import Path

import click

from mariana_asr.cli.arguments import allow_pipes_option, existing_path, jobs_option
from mariana_asr.corpus.fix import fix_data_dir
from mariana_asr.corpus.validate import validate_data_dir
from mariana_asr.errors import DataError, RecipeError, counted
from mariana_asr.lang.validate import validate_lang


@click.command("validate")
@click.argument("path", type=existing_path)
@click.argument("overrides", nargs=-1, metavar="[SECTION.KEY=VALUE]...")
@click.option("--fix", is_flag=True, help="Repair a data directory first; keeps a .backup.")
@click.option("--read-data", is_flag=True, help="Also open every recording of a data directory.")
@click.option("--no-text", is_flag=True, help="A data directory without transcripts is right.")
@jobs_option
@allow_pipes_option
def command(
    path: Path,
    overrides: tuple[str, ...],
    fix: bool,
    read_data: bool,
    no_text: bool,
    jobs: int,
    allow_pipes: bool,
) -> None:
    """Check PATH, a recipe, a data directory or a lang directory, and list what is wrong with it.

    A data directory is held to what Kaldi's validate_data_dir.sh asks; one with features need
    not have audio.
    """
    if path.is_file():
        if fix:
            raise RecipeError("--fix repairs data directories, not recipes", where=path)
        _validate_recipe(path, overrides)
        return
    if overrides:
        raise DataError(f"{overrides[0]} overrides a recipe, and this is a folder", where=path)
    problems: Sequence[object]
    if (path / "topo").exists():
        problems = validate_lang(path)
    else:
        if fix:
            click.echo(str(fix_data_dir(path)))
        problems = validate_data_dir(
            path,
            need_text=not no_text,
            need_audio=not (path / "feats.scp").exists(),
            read_data=read_data,
            allow_pipes=allow_pipes,
            jobs=jobs,
        )
    for problem in problems:
        click.echo(str(problem))
    if problems:
        raise DataError(counted(len(problems), "problem"), where=path)
    click.echo(f"{path}: nothing wrong")


def _validate_recipe(path: Path, overrides: tuple[str, ...]) -> None:
    # Here, so that checking a data directory does not import what only recipes need.
    from mariana_asr.recipe.experiment import Experiment
    from mariana_asr.recipe.load import load_recipe
    from mariana_asr.recipe.runner import plan_stages

    recipe = load_recipe(path, overrides)
    experiment = Experiment(recipe, Path("exp") / recipe.name, jobs=1, allow_pipes=False)
    experiment.check_inputs()
    stages = plan_stages(experiment.stages(), experiment.folder)
    click.echo(f"{path}: nothing wrong; {len(stages)} stages")
