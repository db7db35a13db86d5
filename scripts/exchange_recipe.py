"""Error rates of a recipe's network under each exchange, number of workers, optimiser and so on.

python scripts/exchange_recipe.py recipes/an4/recipe.yaml --exp exp --json exchange.json
python scripts/exchange_recipe.py recipes/an4/recipe.yaml --exp exp --only workers-1,workers-2

Every setting trains the same network on the same frames and alignments: the experiment of the
recipe is run once, and each setting goes on from a copy of its finished stages. What the network
then does on the test set is scored with weights chosen on dev.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click
from benchmark_record import begin_record, finish_record, markdown_table

from mariana_asr.logs import start_logging
from mariana_asr.parallel import available_cores
from mariana_asr.recipe.experiment import Experiment
from mariana_asr.recipe.load import load_recipe
from mariana_asr.score.results import read_results

ADAPTIVE = ("train.minibatch_size=1024", "train.schedule={type: exponential, epochs: 5}")
"""What all settings share: a larger minibatch than the recipe's, and the same number of epochs."""
SGD = (*ADAPTIVE, "train.learning_rate=0.001")
SIGMOID = (
    "model.activation=sigmoid",
    "model.normalisation=none",
    "model.dropout=0",
    "train.minibatch_size=256",
    "train.schedule={type: newbob, max_iters: 4}",
    "train.learning_rate=0.008",
)
"""The network that Boltzmann machines can pretrain, at Kaldi's rate."""

SETTINGS: dict[str, tuple[str, ...]] = {
    **{f"workers-{n}": (*SGD, f"engine.workers={n}") for n in (1, 2, 4)},
    **{
        kind: (*SGD, "engine.workers=2", f"engine.exchange={kind}")
        for kind in ("fp16", "bf16", "powersgd", "sharded", "local_sgd", "bmuf")
    },
    "hierarchical": (
        *SGD,
        "engine.workers=4",
        "engine.exchange={type: hierarchical, workers_per_host: 2}",
    ),
    **{
        f"{kind}-{squares}": (
            *ADAPTIVE,
            "engine.workers=2",
            f"train.optimiser={{type: {kind}, squares: {squares}}}",
        )
        for kind in ("adagrad", "adam")
        for squares in ("reduced", "exact")
    },
    "no-pretraining": SIGMOID,
    "rbm": (*SIGMOID, "train.pretraining=rbm"),
    "denoising": (*SIGMOID, "train.pretraining=denoising"),
}


def run_setting(recipe: Path, base: Path, exp: Path, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train and decode with some overrides, from a copy of an experiment's finished stages."""
    with tempfile.TemporaryDirectory(dir=exp, prefix="setting-") as folder:
        copy = Path(folder) / base.name
        shutil.copytree(
            base,
            copy,
            symlinks=True,
            copy_function=_link,
            ignore=shutil.ignore_patterns(".lock"),
        )
        experiment = Experiment(
            load_recipe(recipe, overrides), copy, jobs=available_cores(), allow_pipes=False
        )
        experiment.run()
        lines = (copy / "dnn" / "log.jsonl").read_text().splitlines()
        log = [json.loads(line) for line in lines][1:]
        results = {r.tuned_on: r for r in read_results(copy) if r.system == "dnn"}
    best = min(log, key=lambda record: record["held_out_loss"])
    seconds = sum(record["seconds"] for record in log)
    return {
        "overrides": list(overrides),
        "wer": results["dev"].percent,
        "errors": results["dev"].errors,
        "wer_best_on_test": results["test"].percent,
        "held_out_loss": best["held_out_loss"],
        "held_out_accuracy": best["held_out_accuracy"],
        "epochs": len(log),
        "seconds": round(seconds, 1),
        "frames_per_second": round(sum(record["frames"] for record in log) / seconds),
        **{
            key: sum(record[key] for record in log) / len(log)
            for key in (
                "gradient_bytes_per_step",
                "parameter_bytes_per_step",
                "adaptive_bytes_per_step",
                "exchange_ms_per_step",
                "exchange_wait_share",
            )
            if key in log[-1]
        },
    }


def _link(source: str, target: str) -> None:
    # Stages replace files and never write into old ones, so a second name is as good as a copy.
    Path(target).hardlink_to(source)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The settings side by side."""

    def kilobytes(row: dict[str, Any], kind: str) -> str | None:
        value = row.get(f"{kind}_bytes_per_step")
        return None if value is None else f"{value / 1000:,.0f}"

    return markdown_table(
        (
            "setting",
            "WER",
            "errors",
            "best on test",
            "held-out loss",
            "kB a step: gradients",
            "parameters",
            "adaptive",
            "exchange, ms a step",
            "waiting for it, %",
            "frames/s",
            "seconds",
        ),
        (
            (
                name,
                f"{row['wer']:.2f}",
                row["errors"],
                f"{row['wer_best_on_test']:.2f}",
                f"{row['held_out_loss']:.4f}",
                kilobytes(row, "gradient"),
                kilobytes(row, "parameter"),
                kilobytes(row, "adaptive"),
                f"{row['exchange_ms_per_step']:.1f}" if "exchange_ms_per_step" in row else None,
                f"{100 * row['exchange_wait_share']:.0f}" if "exchange_wait_share" in row else None,
                f"{row['frames_per_second']:,}",
                f"{row['seconds']:.0f}",
            )
            for name, row in figures.items()
        ),
    )


@click.command()
@click.argument("recipe", type=click.Path(exists=True, path_type=Path))
@click.option("--exp", type=click.Path(path_type=Path), default=Path("exp"), show_default=True)
@click.option("--only", default=",".join(SETTINGS), help="Names of settings, with commas.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def main(recipe: Path, exp: Path, only: str, json_path: Path | None) -> None:
    """Train RECIPE's network under each setting and compare error rates."""
    start_logging()
    names = only.split(",")
    record = begin_record("exchange_recipe", {"recipe": str(recipe), "settings": names})
    loaded = load_recipe(recipe, ())
    base = exp / loaded.name
    if not (base / "frames" / "stage.json").exists():
        raise click.UsageError(f"run first: mariana-asr train {recipe} --exp {exp}")
    figures = {}
    for name in names:
        figures[name] = run_setting(recipe, base, exp, SETTINGS[name])
        click.echo(f"{name}: {figures[name]}")
        if json_path is not None:
            finish_record(json_path, record, {"figures": figures})
    click.echo(table(figures))


if __name__ == "__main__":
    main()
