"""``mariana-asr factor``: a smaller network out of a trained one."""

from pathlib import Path

import click

from mariana_asr.cli.arguments import existing_dir, new_path
from mariana_asr.errors import RecipeError


@click.command("factor")
@click.argument("model", type=existing_dir)
@click.argument("out", type=new_path)
@click.option("--rank", type=click.IntRange(min=1), help="Keep so many singular values a layer.")
@click.option(
    "--energy",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="Keep this share of each layer's sum of squared singular values.",
)
def command(model: Path, out: Path, rank: int | None, energy: float | None) -> None:
    """Factor the hidden layers of the network in MODEL by SVD, into OUT."""
    # Only here: importing torch takes seconds that --help need not wait.
    from mariana_asr.decode.scorers import NETWORK
    from mariana_asr.nnet.acoustic_model import AcousticModel
    from mariana_asr.nnet.dnn import Dnn
    from mariana_asr.nnet.factoring import factor_dnn
    from mariana_asr.recipe.network import copy_transition_model

    if (rank is None) == (energy is None):
        raise RecipeError("give either --rank or --energy", where="command line")
    given = AcousticModel.load(model / NETWORK)
    if not isinstance(given.network, Dnn):
        raise RecipeError(
            f"a network of type {given.options.type}: only those of type dnn can be factored",
            where=model,
        )
    network = factor_dnn(given.network, rank=rank, energy=energy)
    factored = AcousticModel(network, network.options, given.front_end, given.log_priors)
    out.mkdir(parents=True, exist_ok=True)
    factored.save(out / NETWORK)
    copy_transition_model(model, out)
    before, after = (sum(p.numel() for p in n.parameters()) for n in (given.network, network))
    ranks = ", ".join(str(kept) for kept in network.options.bottlenecks)
    click.echo(f"{out}: bottlenecks of {ranks} units; {after:,} parameters, before {before:,}")
