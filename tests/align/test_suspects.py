"""Suspicious utterances: each reason by itself, and transcripts of AN4 made wrong on purpose."""

import dataclasses
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from mariana_asr.align.alignment import align
from mariana_asr.align.formats.model_io import GmmModel, read_gmm_model, transition_id_to_pdf
from mariana_asr.align.output.aligned_utterance import AlignedUtterance, UtteranceSegmenter
from mariana_asr.align.output.measures import deviations, group_medians, worst_stretch
from mariana_asr.align.output.segments import PhoneSegment, WordSegment
from mariana_asr.align.output.suspects import Suspect, SuspectFinder, SuspectOptions
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.align.utterances import GmmAcousticModel
from mariana_asr.corpus.datadir import DataDir, read_table
from mariana_asr.features.front_end import FrontEnd, TransformOptions
from mariana_asr.lang.langdir import Lang, read_lang

DELTAS = TransformOptions(delta_order=2)


class Utterances:
    """Alignments that differ a little from one another, of the made-up language."""

    def __init__(self, lang: Lang, count: int = 40) -> None:
        self.lang = lang
        self.generator = random.Random(0)
        self.aligned: dict[str, AlignedUtterance] = {}
        for number in range(count):
            self.add(f"s{number % 4}-{number:02}")

    def add(self, utterance: str, words: str = "bado ba do", **changes) -> None:
        """``frames``: of each phone, silences too; the rest are fields of AlignedUtterance."""
        lexicon = {"bado": "B A D O", "ba": "B A", "do": "D O"}
        frames = iter(changes.pop("frames", []))
        start, segments = 0, []
        for word in ["", *(part for w in words.split() for part in (w, ""))]:
            phones = []
            for name in lexicon[word].split() if word else ["SIL"]:
                length = next(frames, self.generator.randint(8, 14))
                phones.append(PhoneSegment(self.lang.phones[name], start, length))
                start += length
            segments.append(WordSegment(self.lang.words[word or "<eps>"], tuple(phones)))
        fields = {
            "score": -7.0 + self.generator.gauss(0, 0.2),
            "retried": False,
            "frame_scores": np.full(start, -7.0) + self.generator.gauss(0, 0.2),
        }
        self.aligned[utterance] = AlignedUtterance(
            utterance=utterance,
            speaker=utterance.split("-")[0],
            transcript=tuple(words.split()),
            words=tuple(segments),
            frames=start,
            **(fields | changes),
        )

    def data(self) -> DataDir:
        return DataDir(
            Path("none"),
            {utterance: a.speaker for utterance, a in self.aligned.items()},
            text={utterance: " ".join(a.transcript) for utterance, a in self.aligned.items()},
        )

    def finder(self, options: SuspectOptions | None = None) -> SuspectFinder:
        finder = SuspectFinder(self.lang, self.data(), 0.01, options)
        for aligned in self.aligned.values():
            finder.add(aligned)
        return finder

    def suspects(self, options: SuspectOptions | None = None) -> list[Suspect]:
        return self.finder(options).suspects()


@pytest.fixture
def utterances(made) -> Utterances:
    return Utterances(made.lang)


def kinds(suspect: Suspect) -> list[str]:
    return [reason.kind for reason in suspect.reasons]


def test_ordinary_utterances_are_not_suspicious(utterances):
    assert utterances.suspects() == []


def test_a_low_score_is_suspicious(utterances):
    utterances.add("s1-bad", score=-9.0)
    (suspect,) = utterances.suspects()
    assert (suspect.utterance, suspect.speaker, suspect.score) == ("s1-bad", "s1", -9.0)
    assert kinds(suspect) == ["score"]
    scores = np.array([a.score for a in utterances.aligned.values()])
    scale = np.median(np.abs(scores - np.median(scores))) / 0.67449
    z = (-9.0 - np.median(scores)) / scale
    assert f"score -9.00, {z:.1f} deviations from all" in suspect.reasons[0].text
    assert suspect.suspicion == pytest.approx(suspect.reasons[0].weight)


def test_a_score_that_is_low_for_its_speaker_is_suspicious(made):
    """One of the best scores of all, but the speaker's others are better still."""
    utterances = Utterances(made.lang, 80)
    for name, aligned in utterances.aligned.items():
        better = {"s0": 6.0, "s1": 0.0, "s2": -2.0, "s3": 2.0}[aligned.speaker]
        utterances.aligned[name] = dataclasses.replace(aligned, score=aligned.score + better)
    utterances.add("s0-bad", score=-4.0)
    (suspect,) = utterances.suspects()
    assert suspect.utterance == "s0-bad"
    assert "+0.4 deviations from all" in suspect.reasons[0].text
    assert utterances.suspects(SuspectOptions(min_speaker_utterances=50)) == []


def test_a_bad_stretch_is_found_with_its_place_and_words(utterances):
    utterances.add("s1-bad", "ba do", frames=[10] * 7)
    scores = np.full(70, -7.0)
    scores[32:57] = -12.0  # from within "ba" (10 to 30) and silence (30 to 40) to "do" (40 to 60)
    utterances.aligned["s1-bad"] = dataclasses.replace(
        utterances.aligned["s1-bad"], frame_scores=scores
    )
    (suspect,) = utterances.suspects()
    assert kinds(suspect) == ["stretch"]
    (reason,) = suspect.reasons
    assert (reason.start, reason.end) == (0.32, 0.57)
    assert "score -12.00 at 0.32-0.57 s ([silence] do)" in reason.text


def test_without_scores_of_frames_the_rest_is_judged(utterances):
    for name, aligned in utterances.aligned.items():
        utterances.aligned[name] = dataclasses.replace(aligned, frame_scores=None)
    utterances.add("s1-bad", score=-9.0, frame_scores=None)
    assert [kinds(suspect) for suspect in utterances.suspects()] == [["score"]]


def test_extreme_rates_are_suspicious(utterances):
    utterances.add("s1-fast", frames=[10, 4, 4, 4, 4, 10, 4, 4, 10, 4, 4, 10])
    utterances.add("s1-slow", "ba", frames=[10, 35, 35, 10])
    options = SuspectOptions(phone_deviations=100)
    found = {suspect.utterance: suspect for suspect in utterances.suspects(options)}
    assert {name: kinds(suspect) for name, suspect in found.items()} == {
        "s1-fast": ["rate"],
        "s1-slow": ["rate"],
    }
    assert found["s1-fast"].reasons[0].text.startswith("25.0 phones a second")
    assert ", +" in found["s1-fast"].reasons[0].text
    assert found["s1-slow"].reasons[0].text.startswith("2.9 phones a second")
    assert ", -" in found["s1-slow"].reasons[0].text


def test_a_long_phone_is_suspicious(utterances):
    utterances.add("s1-bad", frames=[10, 10, 80])
    (suspect,) = utterances.suspects(SuspectOptions(rate_deviations=100))
    (reason,) = suspect.reasons
    assert (reason.kind, reason.start, reason.end) == ("long_phone", 0.2, 1.0)
    assert reason.text.startswith("A at 0.20-1.00 s lasts 0.80 s")


def test_phones_at_minimal_duration_are_suspicious(utterances):
    """The HMMs of the made-up language have three states."""
    utterances.add("s1-run", frames=[10, 12, 3, 3, 3, 10, 12, 12, 10, 12, 12, 10])
    utterances.add("s2-run", frames=[10, 3, 3, 3, 3, 10, 12, 12, 10, 12, 12, 10])
    utterances.add("s3-words", frames=[3, 12, 12, 12, 12, 10, 3, 3, 10, 3, 3, 10])
    options = SuspectOptions(rate_deviations=100)
    suspects = {suspect.utterance: suspect for suspect in utterances.suspects(options)}
    assert {name: kinds(suspect) for name, suspect in suspects.items()} == {
        "s2-run": ["short_run"],
        "s3-words": ["short_words"],
    }
    (reason,) = suspects["s2-run"].reasons
    assert reason.text == "4 phones at minimal duration at 0.10-0.22 s"
    assert (reason.weight, reason.start, reason.end) == (1.0, 0.1, 0.22)
    assert suspects["s3-words"].reasons[0].text == "2 words at minimal duration"


def test_a_long_silence_between_words_is_suspicious_but_not_one_at_the_ends(utterances):
    utterances.add("s1-ends", frames=[300] + [10] * 10 + [300])
    utterances.add("s2-between", frames=[10] * 5 + [180] + [10] * 6)
    (suspect,) = utterances.suspects()
    assert suspect.utterance == "s2-between"
    (reason,) = suspect.reasons
    assert (reason.kind, reason.start, reason.end) == ("silence", 0.5, 2.3)
    assert reason.weight == pytest.approx(1.8 / 1.5)


def test_the_retry_beam_is_suspicious_and_failures_come_first(utterances, tmp_path):
    utterances.add("s1-retried", retried=True)
    utterances.add("s3-worse", retried=True, score=-50.0)
    failed = {"s9-unknown": "no features", "s0-failed": "no path"}
    suspects = utterances.finder().write(tmp_path, failed)
    assert [suspect.utterance for suspect in suspects] == [
        "s0-failed",
        "s9-unknown",
        "s3-worse",
        "s1-retried",
    ]
    tree = json.loads((tmp_path / "suspects.json").read_text())
    assert (tree["aligned"], tree["failed"]) == (42, 2)
    assert tree["options"] == SuspectOptions().model_dump()
    assert tree["suspects"] == [dataclasses.asdict(suspect) for suspect in suspects]
    header, *rows = (tmp_path / "suspects.txt").read_text().splitlines()
    assert header.split() == ["#", "utterance", "speaker", "suspicion", "score", "reasons"]
    cells = [re.split(r" {2,}", row) for row in rows]
    assert cells[:2] == [
        ["s0-failed", "-", "failed", "-", "not aligned: no path"],
        ["s9-unknown", "-", "failed", "-", "not aligned: no features"],
    ]
    assert cells[2][:4] == ["s3-worse", "s3", "6.00", "-50.0000"]
    assert cells[2][4] == f"{suspects[2].reasons[0].text}; took the retry beam"
    assert cells[3][4] == "took the retry beam"


def test_few_utterances_and_none_at_all_can_be_judged(made, tmp_path):
    none = Utterances(made.lang, 0)
    assert none.suspects() == []
    few = Utterances(made.lang, 3)
    few.add("s0-bad", score=-100.0, frames=[10, 3, 3, 3, 3])
    assert [kinds(suspect) for suspect in few.suspects()] == [["short_run"]]


def test_the_worst_stretch_is_that_of_a_slow_search():
    generator = np.random.default_rng(0)
    for _ in range(50):
        scores = generator.normal(size=generator.integers(1, 40))
        width = int(generator.integers(1, 50))
        stretch, mean = worst_stretch(scores, width)
        length = min(width, len(scores))
        means = [scores[i : i + length].mean() for i in range(len(scores) - length + 1)]
        assert (stretch.start, stretch.frames) == (int(np.argmin(means)), length)
        assert mean == pytest.approx(min(means))


def test_deviations_are_standard_for_normal_values_and_ignore_outliers():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=4001)
    values[:100] = 1e6
    expected = (values[100:] - 5.0) / 2.0
    assert deviations(values)[100:] == pytest.approx(expected, abs=0.15, rel=0.05)
    assert deviations(np.arange(9.0)).tolist() == [0.0] * 9
    assert deviations(np.array([1.0] * 10 + [5.0] * 3)).tolist() == [0.0] * 13


def test_medians_of_groups():
    values, groups = np.array([1.0, 5.0, 2.0, 9.0, 3.0]), ["b", "a", "b", "b", "a"]
    assert group_medians(values, groups).tolist() == [2.0, 4.0, 2.0, 2.0, 4.0]


@pytest.fixture(scope="module")
def tri1(golden) -> tuple[GmmModel, Lang, Path]:
    folder = golden / "an4_kaldi"
    return read_gmm_model(folder / "tri1/final.mdl"), read_lang(folder / "lang"), folder / "tri1"


def find_suspects(tri1, data: DataDir, out_dir: Path) -> list[Suspect]:
    """Align with Kaldi's triphones, score the frames, and judge."""
    model, lang, folder = tri1
    align(
        data,
        lang,
        folder,
        out_dir,
        acoustic_model=GmmAcousticModel(model.gmm, FrontEnd.of(data, DELTAS)),
    )
    pdfs = transition_id_to_pdf(model.transition_model)
    segmenter = UtteranceSegmenter(lang, model.transition_model, data)
    finder = SuspectFinder(lang, data, 0.01)
    scores = read_table(out_dir / "scores.txt")
    alignments = read_alignments(out_dir)
    for utterance, feats in FrontEnd.of(data, DELTAS).iterate(data):
        if utterance in alignments:
            tids = alignments[utterance]
            own, column = np.unique(pdfs[tids], return_inverse=True)
            log_likes = model.gmm.select(own).log_likelihoods(feats)
            on_path = log_likes[np.arange(len(tids)), column]
            aligned = segmenter.segment(
                utterance, tids, float(scores[utterance]), frame_scores=on_path
            )
            finder.add(aligned)
    return finder.suspects(read_table(out_dir / "skipped.txt"))


def test_exchanged_transcripts_come_to_the_top(tri1, an4, tmp_path):
    data = an4.subset(an4.utterances[:60])
    one, other = an4.utterances[11], an4.utterances[34]
    assert one.split("-")[0] != other.split("-")[0]
    text = data.text | {one: data.text[other], other: data.text[one]}
    suspects = find_suspects(tri1, dataclasses.replace(data, text=text), tmp_path)
    assert {suspect.utterance for suspect in suspects[:2]} == {one, other}
    assert len(suspects) < 10


def test_a_transcript_that_lacks_a_word_is_found(tri1, an4, tmp_path):
    data = an4.subset(an4.utterances[:60])
    bad = [utterance for utterance in data.utterances if len(data.text[utterance].split()) > 4][::6]
    text = dict(data.text)
    for utterance in bad:
        words = text[utterance].split()
        text[utterance] = " ".join(words[:2] + words[3:])
    suspects = find_suspects(tri1, dataclasses.replace(data, text=text), tmp_path)
    found = [suspect.utterance for suspect in suspects]
    assert len(bad) == 8
    assert set(found[:6]) <= set(bad)
    assert "stretch" in kinds(suspects[0])
