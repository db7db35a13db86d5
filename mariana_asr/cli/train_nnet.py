"""``mariana-asr train-nnet``: a network on features and alignments."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import assignments_argument, existing_dir, new_path
from mariana_asr.cli.team import with_team
from mariana_asr.corpus.datadir import read_data_dir
from mariana_asr.engine.frames.packing import PackOptions
from mariana_asr.errors import RecipeError
from mariana_asr.options import options_from_assignments
from mariana_asr.recipe.network import AlignedData, pack_aligned_frames, train_acoustic_model
from mariana_asr.recipe.schema import NetworkSections


@click.command("train-nnet")
@click.argument("data", type=existing_dir)
@click.argument("ali", type=existing_dir)
@click.argument("held_out_data", type=existing_dir)
@click.argument("held_out_ali", type=existing_dir)
@click.argument("out", type=new_path)
@click.option(
    "--transform-dir",
    type=existing_dir,
    help="For model.adapted=true, where speaker-adapted GMMs have aligned DATA, with the speakers' "
    "transforms; by default ALI.",
)
@click.option(
    "--held-out-transform-dir",
    type=existing_dir,
    help="The same for HELD_OUT_DATA; by default HELD_OUT_ALI.",
)
@assignments_argument(
    "the options of the recipe's sections `model`, `train` and `engine`, "
    "such as model.hidden_dim=2048"
)
def command(
    data: Path,
    ali: Path,
    held_out_data: Path,
    held_out_ali: Path,
    out: Path,
    transform_dir: Path | None,
    held_out_transform_dir: Path | None,
    assignments: tuple[str, ...],
) -> None:
    """Train a network on DATA with the alignments ALI, watched on the held-out pair, into OUT."""
    options = options_from_assignments(NetworkSections, assignments)
    if options.model.features is not None:
        raise RecipeError(
            "model.features is for recipes, which compute them",
            where="command line",
            remedy="Compute them with 'mariana-asr features', and give that directory as DATA",
        )
    frames = out / "frames"

    def lead() -> None:
        packing = PackOptions(storage=options.engine.storage)
        for name, directory, alignments, transforms in (
            ("train", data, ali, transform_dir),
            ("dev", held_out_data, held_out_ali, held_out_transform_dir),
        ):
            part = AlignedData(read_data_dir(directory), alignments, transforms)
            pack_aligned_frames([part], options.model, frames / name, packing)
        train_acoustic_model(
            frames / "train",
            frames / "dev",
            ali,
            options.model,
            options.train,
            options.engine,
            out,
        )

    with_team(lead)
