"""``mariana-asr graph``: the decoding graph HCLG."""

from pathlib import Path

import click

from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.cli.arguments import assignments_argument, existing_dir, new_path
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.options import GraphOptions
from mariana_asr.options import options_from_assignments


@click.command("graph")
@click.argument("lang", type=existing_dir)
@click.argument("model", type=existing_dir)
@click.argument("out", type=new_path)
@assignments_argument("the options of the recipe's section `lang.graph`")
def command(lang: Path, model: Path, out: Path, assignments: tuple[str, ...]) -> None:
    """Make HCLG of LANG (with G.fst) and MODEL (with tree and final.mdl) in OUT."""
    options = options_from_assignments(GraphOptions, assignments)
    transition_model = read_transition_model(model / "final.mdl")
    make_graph(lang, read_tree(model / "tree"), transition_model, out, options)
