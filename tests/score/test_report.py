"""The report: whole, escaped, and in need of nothing else."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from mariana_asr.errors import FormatError
from mariana_asr.score.candidates import Candidate, Selection
from mariana_asr.score.report import format_duration, read_log, write_report
from mariana_asr.score.results import Result

RESULTS = [
    Result("mono", "eval", "wer", 13.07, 101, 773, 11, 13, 77, 0.012, "dev", 10.0, 0.5),
    Result("mono", "eval", "wer", 12.03, 93, 773, 10, 12, 71, 0.012, "test", 11.0, 0.0),
]
NETWORK_LOG = [
    {"epoch": 0, "held_out_loss": 5.5, "held_out_accuracy": 0.01},
    {
        "epoch": 1,
        "learning_rate": 0.008,
        "train_loss": 2.5,
        "train_accuracy": 0.4,
        "held_out_loss": 2.1,
        "held_out_accuracy": 0.45,
        "accepted": True,
    },
    {
        "epoch": 2,
        "learning_rate": 0.008,
        "train_loss": 2.0,
        "train_accuracy": 0.5,
        "held_out_loss": 2.2,
        "held_out_accuracy": 0.44,
        "accepted": False,
    },
]
GMM_LOG = [{"iteration": i, "log_likelihood_per_frame": -95.0 + i} for i in range(1, 6)]


class Page(HTMLParser):
    """Tags, their attributes and the text of a page; checks that tags are closed in order."""

    void = frozenset({"meta", "link", "br", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    path = write_report(
        tmp_path_factory.mktemp("report"),
        "an4 <script>alert(1)</script>",
        RESULTS,
        network_logs={"dnn": NETWORK_LOG},
        gmm_logs={"mono": GMM_LOG},
        stages={"mono": 95.2, "dnn <b>": 230.0},
        recipe_text="name: an4\nnote: '<img src=x onerror=alert(2)>' & more\n",
    )
    assert path.name == "index.html"
    return Page(path.read_text(encoding="utf-8"))


def test_where_only_dev_was_decoded_its_rates_come_first(tmp_path: Path):
    row = Result("dnn", "dev", "wer", 9.5, 19, 200, 9, 5, 5, 0.01, "itself", 10.0, 0.5, 12345, 99.5)
    text = Page(write_report(tmp_path, "x", [row]).read_text(encoding="utf-8")).text
    assert "dnn · dev 9.50 %" in text
    path = write_report(tmp_path, "x", [*RESULTS, row], network_logs={"dnn": NETWORK_LOG})
    text = Page(path.read_text(encoding="utf-8")).text
    assert "mono · eval 13.07 %" in text
    assert "dnn · dev" not in text
    assert "dev set · to choose by" in text
    assert "Parameters 12,345" in text


def test_the_choice_of_weights_is_shown(tmp_path: Path):
    candidates = (
        Candidate((1,), 2.1, 0.45, 12.5, 25, 200),
        Candidate((1, 2), 2.0, 0.47, 11.0, 22, 200),
    )
    selection = Selection("wer", "cer", candidates, 1)
    logs = {"dnn": NETWORK_LOG}
    path = write_report(tmp_path, "x", [], network_logs=logs, selections={"dnn": selection})
    page = Page(path.read_text(encoding="utf-8"))
    assert "Dev CER" in page.text
    assert "epoch 1 2.1000 45.00 % 12.50 % 25 / 200" in page.text
    assert "mean of epochs 1, 2 2.0000 47.00 % 11.00 % 22 / 200 chosen" in page.text
    assert "and its weights were kept" not in page.text


def test_the_page_needs_no_script_no_network_and_no_other_file(page: Page):
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_titles_recipes_and_stage_names_are_escaped(page: Page):
    assert "an4 <script>alert(1)</script>" in page.text
    assert "'<img src=x onerror=alert(2)>' & more" in page.text
    assert "dnn <b>" in page.text


def test_the_table_has_both_rows_and_marks_the_one_tuned_on_test(page: Page):
    rows = [attributes.get("class") for tag, attributes in page.tags if tag == "tr"]
    assert rows.count("headline") == rows.count("comparison") == 1
    assert "13.07 %" in page.text
    assert "101 / 773" in page.text
    assert "12.03 %" in page.text
    assert page.text.count("comparison only") == 1


def test_every_curve_is_drawn_and_rejected_epochs_are_named(page: Page):
    assert [tag for tag, _ in page.tags].count("svg") == 4
    for title in ("Loss", "Frame accuracy", "Learning rate", "Log-likelihood"):
        assert title in page.text
    assert "epoch 2 made the held-out loss worse and was undone" in page.text


def test_stage_times_are_shown_with_their_sum(page: Page):
    assert "1 min 35 s" in page.text
    assert "5 min 25 s in all." in page.text


def test_curves_take_their_colours_from_the_style_sheet(page: Page):
    styles = " ".join(attributes.get("style") or "" for _, attributes in page.tags)
    assert "var(--series-1)" in styles
    assert "#0102" not in styles


def test_a_report_of_nothing_is_still_a_page(tmp_path: Path):
    text = write_report(tmp_path / "new", "empty", []).read_text(encoding="utf-8")
    assert "Nothing has been scored yet" in Page(text).text


def test_logs_without_the_expected_keys_draw_nothing(tmp_path: Path):
    path = write_report(
        tmp_path, "odd", RESULTS, network_logs={"dnn": [{"step": 1}]}, gmm_logs={"mono": [{}]}
    )
    assert "<svg" not in path.read_text(encoding="utf-8")


def test_a_network_has_a_table_of_how_it_was_trained(tmp_path: Path):
    trained = {"workers": 2, "exchange": "bmuf", "frames": 9000, "seconds": 3.0}
    log = [*NETWORK_LOG[:1], NETWORK_LOG[1] | trained | {"gradient_bytes_per_step": 5_600_000}]
    path = write_report(tmp_path, "x", RESULTS, network_logs={"dnn": log})
    text = Page(path.read_text(encoding="utf-8")).text
    assert "How it was trained Workers 2 exchange: bmuf Frames trained 9,000" in text
    assert "Frames a second 3,000" in text
    assert "Sent for gradients 5.6 MB" in text


def test_logs_without_figures_have_no_such_table(page: Page):
    assert "How it was trained" not in page.text


def test_one_report_twice_is_the_same_file(tmp_path: Path):
    logs = {"dnn": NETWORK_LOG}
    one = write_report(tmp_path / "1", "x", RESULTS, network_logs=logs).read_bytes()
    assert write_report(tmp_path / "2", "x", RESULTS, network_logs=logs).read_bytes() == one


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (11520, "3 h 12 min"),
    ],
)
def test_durations_are_for_people(seconds, text):
    assert format_duration(seconds) == text


def test_logs_are_read_line_by_line(tmp_path: Path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n')
    assert read_log(tmp_path / "log.jsonl") == [{"epoch": 0}, {"epoch": 1}]
    (tmp_path / "log.jsonl").write_text('{"epoch": 0}\n{"epo')
    with pytest.raises(FormatError, match=r"log.jsonl:2: not JSON"):
        read_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("[]\n")
    with pytest.raises(FormatError, match="not a JSON object"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(FormatError, match="no such file"):
        read_log(tmp_path / "missing.jsonl")
