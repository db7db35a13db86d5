"""The tables of a sweep: means over seeds and over what was varied."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mariana_asr.recipe.sweep import Outcome, SweepRun
from mariana_asr.recipe.sweep_table import (
    Row,
    choose_systems,
    make_means,
    make_rows,
    tables_of,
    write_tables,
)
from mariana_asr.recipe.variants import Variant, make_variants
from mariana_asr.score.results import Metric, Result


@dataclass
class Rates:
    """Errors of 200 words of dev and 100 of test of a run."""

    variant: Variant
    seed: int | None
    gmm: tuple[int, int]
    network: tuple[int, int]
    metric: Metric = "wer"

    def outcome(self) -> Outcome:
        results = []
        for system, (dev, test) in (("mono", self.gmm), ("dnn", self.network)):
            figures = {"parameters": 1000, "frames_per_second": 50.0 * dev}
            of_network: dict[str, Any] = figures if system == "dnn" else {}
            for test_set, errors, tokens, tuned_on in (
                ("test", test, 100, "dev"),
                ("test", 0, 100, "test"),
                ("dev", dev, 200, "itself"),
            ):
                percent = 100 * errors / tokens
                results.append(
                    Result(
                        system, test_set, self.metric, percent, errors, tokens, 0, 0, errors,
                        dev / 1000, cast(Any, tuned_on), **of_network,
                    )
                )  # fmt: skip
        run = SweepRun(self.variant, self.seed, cast(Any, None))
        return Outcome(run, results, {"mono": 5.0, "train_dnn": 20.0, "dnn": 10.0 + test})


def row_of(rows: list[Row], variant: str, system: str) -> Row:
    (row,) = (row for row in rows if (row.variant.label, row.system) == (variant, system))
    return row


def test_a_row_has_the_mean_over_seeds_and_each() -> None:
    (variant,) = make_variants([])
    outcomes = [
        Rates(variant, 1, (40, 30), (20, 10)).outcome(),
        Rates(variant, 2, (40, 30), (30, 40)).outcome(),
    ]
    rows = make_rows(outcomes)
    assert [(row.system, row.seeds) for row in rows] == [("mono", [1, 2]), ("dnn", [1, 2])]
    network = row_of(rows, "base", "dnn")
    assert network.rates["dev"].percents == [10.0, 15.0]
    assert network.rates["dev"].mean == 12.5
    # Weights that were chosen on the test set itself are in no table.
    assert network.rates["test"].percents == [10.0, 40.0]
    assert (network.parameters, network.frames_per_second) == (1000, 1250.0)
    assert network.real_time_factor == 0.025
    assert (network.training_seconds, network.seconds) == (55.0, 60.0)
    gmm = row_of(rows, "base", "mono")
    assert (gmm.parameters, gmm.frames_per_second, gmm.training_seconds) == (None, None, 5.0)


def test_the_last_system_of_each_variant_is_shown_unless_others_are_asked_for() -> None:
    variants = make_variants(["a.b=1,2"])
    rows = make_rows([Rates(variant, None, (4, 3), (2, 1)).outcome() for variant in variants])
    assert [row.system for row in choose_systems(rows, [])] == ["dnn", "dnn"]
    assert [row.system for row in choose_systems(rows, ["mono"])] == ["mono", "mono"]
    assert len(choose_systems(rows, ["all"])) == 4


def test_means_are_over_what_is_named_for_each_choice_of_the_rest() -> None:
    variants = make_variants(["corpus.test_speakers=[a],[b]", "model.hidden_dim=8,16"])
    errors = {("[a]", "8"): 10, ("[b]", "8"): 40, ("[a]", "16"): 6, ("[b]", "16"): 8}
    outcomes = [
        Rates(variant, None, (50, 50), (20, errors[choices])).outcome()
        for variant in variants
        if (choices := tuple(variant.choices.values())) in errors
    ]
    # One speaker's test set is larger: pooled errors weigh it more, the mean does not.
    large = outcomes[0].results[3]
    assert (large.system, large.errors, large.tokens) == ("dnn", 10, 100)
    outcomes[0].results[3] = Result(
        "dnn", "test", "wer", 10.0, 30, 300, 0, 0, 30, 0.1, "dev", parameters=1000
    )
    rows = choose_systems(make_rows(outcomes), ["dnn"])
    means = make_means(rows, ["corpus.test_speakers"])
    assert [mean.label for mean in means] == ["hidden_dim=8", "hidden_dim=16"]
    test = means[0].rates["test"]
    assert test.percents == [10.0, 40.0]
    assert (test.mean, test.pooled) == (25.0, 100 * (30 + 40) / (300 + 100))
    assert means[1].rates["test"].mean == means[1].rates["test"].pooled == 7.0
    (over_all,) = make_means(rows, ["corpus.test_speakers", "model.hidden_dim"])
    assert over_all.label == "all"
    assert over_all.rates["test"].mean == 16.0


def test_a_variant_that_failed_has_no_row_but_its_error(tmp_path: Path) -> None:
    good, bad = make_variants(["a.b=1,2"])
    failed = Outcome(SweepRun(bad, 1, cast(Any, None)), error="the loss\nis not finite")
    outcomes = [
        Rates(good, 1, (40, 30), (20, 10)).outcome(),
        failed,
        Outcome(SweepRun(good, 2, cast(Any, None)), error="no space left"),
    ]
    rows = choose_systems(make_rows(outcomes), [])
    assert [(row.variant.label, row.seeds) for row in rows] == [("b=1", [1])]
    write_tables(tmp_path / "x" / "sweep", "widths", "mariana-asr sweep", outcomes, rows, [])
    text = (tmp_path / "x" / "sweep" / "widths.md").read_text()
    assert "# x: widths" in text
    assert "- b=2, seed 1: the loss is not finite" in text
    tree = json.loads((tmp_path / "x" / "sweep" / "widths.json").read_text())
    assert [(f["variant"], f["seed"]) for f in tree["failed"]] == [("b=2", 1), ("b=1", 2)]
    # JSON has the systems that are not shown, too.
    assert [row["system"] for row in tree["rows"]] == ["mono", "dnn"]
    assert tree["rows"][1]["changes"] == {"a.b": 1}
    assert tree["rows"][1]["rates"]["test"] == {
        "mean": 10.0, "each": [10.0], "errors": 10, "tokens": 100
    }  # fmt: skip
    assert tree["rows"][1]["real_time_factor"] == 0.02


def test_the_table_in_markdown_has_what_is_known() -> None:
    variants = make_variants(["a.b=1,2"])
    outcomes = [Rates(variant, None, (40, 30), (20, 10)).outcome() for variant in variants]
    # Of the second variant the test set was not decoded.
    outcomes[1] = Outcome(
        outcomes[1].run,
        [r for r in outcomes[1].results if r.test_set == "dev"],
        outcomes[1].seconds,
    )
    rows = choose_systems(make_rows(outcomes), [])
    (table, means) = tables_of(rows, make_means(rows, ["a.b"]))
    assert table.markdown() == (
        "## WER of the variants\n\n"
        "| variant | dev WER % | test WER % | parameters | frames/s | real-time factor "
        "| training s | all stages s |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| b=1 | 10.00 | 10.00 | 1,000 | 1,000 | 0.0200 | 40 | 45 |\n"
        "| b=2 | 10.00 | - | 1,000 | 1,000 | 0.0200 | 40 | 45 |\n"
    )
    assert means.header[3:] == ["dev mean WER %", "dev least to most", "dev pooled WER %"]
    assert means.rows == [["all", "dnn", "2", "10.00", "10.00 to 10.00", "10.00"]]


def test_each_metric_has_a_table_of_its_own() -> None:
    (variant,) = make_variants([])
    outcome = Rates(variant, 1, (40, 30), (20, 10)).outcome()
    characters = Rates(variant, 1, (60, 30), (50, 10), metric="cer").outcome()
    both = Outcome(outcome.run, [*outcome.results, *characters.results], outcome.seconds)
    rows = choose_systems(make_rows([both]), [])
    assert [(row.metric, row.rates["dev"].mean) for row in rows] == [("wer", 10.0), ("cer", 25.0)]
    titles = [table.title for table in tables_of(rows, [])]
    assert titles == ["WER of the variants", "CER of the variants"]
