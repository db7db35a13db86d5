"""CTM, TextGrid and JSON of Kaldi's alignments of AN4, read back."""

import dataclasses
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from kaldi_words import an4_transcripts, by_word_boundary
from plain_phones import alignment_to_phones

from mariana_asr.align.formats.model_io import TransitionModel, read_transition_model
from mariana_asr.align.output.aligned_utterance import frame_shift_seconds
from mariana_asr.align.output.alignment_files import AlignmentWriter, textgrid_name
from mariana_asr.align.output.segments import phone_segments
from mariana_asr.align.output.textgrid import Interval, textgrid_text
from mariana_asr.align.transition_ids import read_alignments
from mariana_asr.corpus.datadir import DataDir, Segment
from mariana_asr.errors import DataError, FormatError, RecipeError
from mariana_asr.lang.langdir import Lang, read_lang

SHIFT = 0.01


class Kaldi(NamedTuple):
    lang: Lang
    transition_model: TransitionModel
    alignments: dict[str, np.ndarray]
    data: DataDir


@pytest.fixture(scope="module")
def kaldi(golden, corpora) -> Kaldi:
    """Every 20th of the alignments of Kaldi's tri3."""
    folder = golden / "an4_kaldi"
    alignments = dict(list(read_alignments(folder / "tri3/train_ali.ark").items())[::20])
    transcripts = an4_transcripts(corpora)
    data = DataDir(
        Path("none"),
        {utterance: utterance.split("-")[0] for utterance in alignments},
        text={utterance: transcripts[utterance] for utterance in alignments},
    )
    model = read_transition_model(folder / "tri3/final.mdl")
    return Kaldi(read_lang(folder / "lang"), model, alignments, data)


def write(
    kaldi: Kaldi, out_dir: Path, formats=("ctm", "textgrid", "json"), *, data=None, shift=SHIFT
) -> None:
    data = data or kaldi.data
    with AlignmentWriter(
        out_dir, kaldi.lang, kaldi.transition_model, data, shift, formats
    ) as writer:
        for number, (utterance, tids) in enumerate(kaldi.alignments.items()):
            frame_scores = np.arange(len(tids)) if number % 2 else None
            aligned = writer.write(utterance, tids, -7.25, number == 3, frame_scores)
            assert aligned.frames == len(tids)


def read_ctm(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    rows: dict[str, list[tuple[float, float, str]]] = {}
    for line in path.read_text().splitlines():
        name, channel, start, duration, symbol = line.split(" ")
        rows.setdefault(f"{name} {channel}", []).append((float(start), float(duration), symbol))
    return rows


def read_textgrid(path: Path) -> tuple[float, dict[str, list[tuple[float, float, str]]]]:
    """Duration, and intervals of each tier: the form of Praat's manual, whatever the blanks."""
    text = path.read_text(encoding="utf-8")
    head = re.match(
        r'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
        r"xmin = 0\s*\nxmax = (\S+)\s*\ntiers\? <exists>\s*\nsize = (\d+)\s*\nitem \[\]:\s*\n",
        text,
    )
    assert head
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    parts = re.split(r"^ {4}item \[\d+\]:\s*\n", text[head.end() :], flags=re.MULTILINE)
    assert parts[0] == ""
    assert len(parts) - 1 == int(head[2])
    for part in parts[1:]:
        top = re.match(
            r'\s*class = "IntervalTier"\s*\n\s*name = "(.*)"\s*\n\s*xmin = 0\s*\n'
            r"\s*xmax = (\S+)\s*\n\s*intervals: size = (\d+)\s*\n",
            part,
        )
        assert top
        assert top[2] == head[1]
        intervals = re.findall(
            r"intervals \[(\d+)\]:\s*\n\s*xmin = (\S+)\s*\n\s*xmax = (\S+)\s*\n"
            r'\s*text = "((?:[^"]|"")*)"',
            part,
        )
        assert [int(number) for number, *_ in intervals] == list(range(1, int(top[3]) + 1))
        tiers[top[1]] = [(float(a), float(b), t.replace('""', '"')) for _, a, b, t in intervals]
    return float(head[1]), tiers


def test_ctm_has_the_words_and_phones_of_kaldis_alignments(kaldi, tmp_path):
    write(kaldi, tmp_path, ["ctm"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phones.ctm", "words.ctm"]
    words, phones = (read_ctm(tmp_path / f"{kind}.ctm") for kind in ("words", "phones"))
    names = {number: name for name, number in kaldi.lang.phones.items()}
    for utterance, tids in kaldi.alignments.items():
        cut = by_word_boundary(phone_segments(tids, kaldi.transition_model), kaldi.lang)
        spoken = [(start, frames) for start, frames, silence in cut if not silence]
        expected = [
            (pytest.approx(start * SHIFT), pytest.approx(frames * SHIFT), word)
            for (start, frames), word in zip(
                spoken, kaldi.data.text[utterance].split(), strict=True
            )
        ]
        assert words[f"{utterance} 1"] == expected
        start, expected = 0, []
        for phone, frames in alignment_to_phones(tids, kaldi.transition_model):
            expected.append(
                (pytest.approx(start * SHIFT), pytest.approx(frames * SHIFT), names[phone])
            )
            start += frames
        assert phones[f"{utterance} 1"] == expected
    first = (tmp_path / "words.ctm").read_text().splitlines()[0]
    assert re.fullmatch(r"\S+ 1 \d+\.\d\d \d+\.\d\d \S+", first)


def test_ctm_of_data_with_segments_has_the_recordings_times_too(kaldi, tmp_path):
    segments = {
        utterance: Segment(f"tape{number % 2}", 100.0 * number + 0.005, -1.0)
        for number, utterance in enumerate(kaldi.alignments)
    }
    data = dataclasses.replace(kaldi.data, segments=segments, path=tmp_path / "data")
    write(kaldi, tmp_path / "plain", data=data)
    (tmp_path / "data").mkdir()
    table = tmp_path / "data/reco2file_and_channel"
    table.write_text("tape0 first A\ntape1 second B\n")
    write(kaldi, tmp_path / "named", data=data)
    for kind in ("words", "phones"):
        own = read_ctm(tmp_path / f"plain/{kind}.ctm")
        expected: dict[str, list] = {"tape0 1": [], "tape1 1": []}
        for number, utterance in enumerate(kaldi.alignments):
            expected[f"tape{number % 2} 1"] += [
                (pytest.approx(100.0 * number + 0.005 + start, abs=0.0051), duration, symbol)
                for start, duration, symbol in own[f"{utterance} 1"]
            ]
        assert read_ctm(tmp_path / f"plain/{kind}.recordings.ctm") == expected
        named = read_ctm(tmp_path / f"named/{kind}.recordings.ctm")
        assert named == {"first A": expected["tape0 1"], "second B": expected["tape1 1"]}
    line = json.loads((tmp_path / "named/alignment.jsonl").read_text().splitlines()[1])
    assert (line["recording"], line["recording_start"], line["start"]) == ("tape1", 100.005, 0.0)
    table.write_text("tape0 first A\ntape1 second\n")
    with pytest.raises(DataError, match=r"reco2file_and_channel:2: expected 'recording file"):
        write(kaldi, tmp_path / "named", data=data)


def test_times_in_the_recording_of_a_copy_at_another_speed(kaldi, tmp_path):
    segments = {utterance: Segment("tape", 50.0, -1.0) for utterance in kaldi.alignments}
    data = dataclasses.replace(kaldi.data, segments=segments, path=tmp_path / "data")
    sped_up = dataclasses.replace(data, speeds=dict.fromkeys(segments, 1.1))
    write(kaldi, tmp_path / "plain", data=data)
    write(kaldi, tmp_path / "fast", data=sped_up)
    for name in ("words.ctm", "phones.ctm"):
        own = (tmp_path / "fast" / name).read_text()
        assert own == (tmp_path / "plain" / name).read_text()
    # A second of the copy is 1.1 seconds of the recording.
    own, recorded = (read_ctm(tmp_path / f"fast/phones{kind}.ctm") for kind in ("", ".recordings"))
    expected = [
        (pytest.approx(50 + 1.1 * start, abs=0.0051), pytest.approx(1.1 * duration, abs=0.0051), p)
        for utterance in kaldi.alignments
        for start, duration, p in own[f"{utterance} 1"]
    ]
    assert recorded["tape 1"] == expected
    lines = [
        json.loads((tmp_path / kind / "alignment.jsonl").read_text().splitlines()[0])
        for kind in ("fast", "plain")
    ]
    assert lines[0] == lines[1] | {"speed": 1.1}


def test_textgrids_are_read_back(kaldi, tmp_path):
    write(kaldi, tmp_path, ["ctm", "textgrid"])
    words, phones = (read_ctm(tmp_path / f"{kind}.ctm") for kind in ("words", "phones"))
    assert len(list((tmp_path / "textgrid").iterdir())) == len(kaldi.alignments)
    for utterance, tids in kaldi.alignments.items():
        duration, tiers = read_textgrid(tmp_path / "textgrid" / f"{utterance}.TextGrid")
        assert duration == pytest.approx(len(tids) * SHIFT)
        assert list(tiers) == ["words", "phones"]
        for tier in tiers.values():
            ends = [0.0, *(end for _, end, _ in tier)]
            assert [start for start, _, _ in tier] == ends[:-1]
            assert ends[-1] == duration
        assert [(start, text) for start, _, text in tiers["words"] if text] == [
            (start, word) for start, _, word in words[f"{utterance} 1"]
        ]
        assert [(start, text) for start, _, text in tiers["phones"]] == [
            (pytest.approx(start), re.sub("_[BEIS]$", "", phone))
            for start, _, phone in phones[f"{utterance} 1"]
        ]


def test_textgrids_keep_quotes_and_foreign_letters(tmp_path):
    labels = ['"', 'a "b" c', "", "мариана", "你好"]
    intervals = [Interval(n / 4, (n + 1) / 4, label) for n, label in enumerate(labels)]
    file = tmp_path / textgrid_name("tape/100%-ü")
    file.write_text(textgrid_text({"words": intervals, "none": []}, 1.25), encoding="utf-8")
    assert file.name == "tape%2F100%25-ü.TextGrid"
    assert read_textgrid(file) == (1.25, {"words": intervals, "none": []})


def test_json_has_all_of_it(kaldi, tmp_path):
    write(kaldi, tmp_path)
    words, phones = (read_ctm(tmp_path / f"{kind}.ctm") for kind in ("words", "phones"))
    lines = [json.loads(line) for line in (tmp_path / "alignment.jsonl").read_text().splitlines()]
    assert [line["utterance"] for line in lines] == list(kaldi.alignments)
    for number, line in enumerate(lines):
        utterance = line["utterance"]
        frames = len(kaldi.alignments[utterance])
        assert line["speaker"] == utterance.split("-")[0]
        assert (line["start"], line["end"]) == (0.0, pytest.approx(frames * SHIFT))
        assert (line["frames"], line["score"], line["retried"]) == (frames, -7.25, number == 3)
        assert [
            (w["start"], pytest.approx(w["end"] - w["start"]), w["word"]) for w in line["words"]
        ] == words[f"{utterance} 1"]
        assert [
            (p["start"], pytest.approx(p["end"] - p["start"]), p["phone"]) for p in line["phones"]
        ] == phones[f"{utterance} 1"]
        for word in line["words"]:
            assert word["phones"] == [
                p for p in line["phones"] if word["start"] <= p["start"] < word["end"]
            ]
            # The frames' scores were their numbers, so that of a word is the middle of its frames.
            middle = (word["start"] + word["end"]) / 2 / SHIFT - 0.5
            assert word.get("score") == (pytest.approx(middle) if number % 2 else None)


def test_unknown_words_are_written_as_in_the_transcript(kaldi, tmp_path):
    """Kaldi's lexicon of AN4 says the unknown word as SIL_S; one frame a state here."""
    tids = []
    phone = kaldi.lang.phones["SIL_S"]
    model = kaldi.transition_model
    for tid in range(1, model.num_transition_ids + 1):
        if model.transition_id_to_phone(tid) == phone and model.is_final(tid):
            tids = [tid]
    data = DataDir(Path("none"), {"a-1": "a"}, text={"a-1": "ZÜRICH"})
    with AlignmentWriter(tmp_path, kaldi.lang, model, data, SHIFT) as writer:
        aligned = writer.write("a-1", np.array(tids), -1.0)
    assert aligned.words[0].word == kaldi.lang.oov
    assert (tmp_path / "words.ctm").read_text() == "a-1 1 0.00 0.01 ZÜRICH\n"
    assert json.loads((tmp_path / "alignment.jsonl").read_text())["words"][0]["word"] == "ZÜRICH"


def test_a_wrong_transcript_is_refused_and_the_others_are_written(kaldi, tmp_path):
    first, second = list(kaldi.alignments)[:2]
    text = kaldi.data.text | {first: kaldi.data.text[first] + " HELP"}
    data = dataclasses.replace(kaldi.data, text=text)
    with AlignmentWriter(tmp_path, kaldi.lang, kaldi.transition_model, data, SHIFT) as writer:
        with pytest.raises(DataError, match="phones are not those of its transcript"):
            writer.write(first, kaldi.alignments[first], -1.0)
        with pytest.raises(FormatError, match="is no transition id"):
            writer.write(second, np.array([10**6]), -1.0)
        writer.write(second, kaldi.alignments[second], -1.0)
    assert [name.split()[0] for name in read_ctm(tmp_path / "words.ctm")] == [second]
    assert len((tmp_path / "alignment.jsonl").read_text().splitlines()) == 1
    assert [path.stem for path in (tmp_path / "textgrid").iterdir()] == [second]


def test_files_appear_when_all_is_written_and_old_ones_go(kaldi, tmp_path):
    write(kaldi, tmp_path, ["ctm", "textgrid", "json", "scores"])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    scores = (tmp_path / "scores.txt").read_text().splitlines()
    assert scores == [f"{utterance} -7.2500" for utterance in kaldi.alignments]
    utterance, tids = next(iter(kaldi.alignments.items()))
    with pytest.raises(KeyboardInterrupt):
        with AlignmentWriter(
            tmp_path, kaldi.lang, kaldi.transition_model, kaldi.data, SHIFT
        ) as writer:
            writer.write(utterance, tids, -1.0)
            raise KeyboardInterrupt
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    write(kaldi, tmp_path, ["json"])
    assert {p.name for p in tmp_path.iterdir()} == {"alignment.jsonl", "scores.txt"}


def test_an_unknown_format_is_refused(kaldi, tmp_path):
    with pytest.raises(RecipeError, match=r"no such format: srt\. Choose among ctm, textgrid"):
        write(kaldi, tmp_path, ["ctm", "srt"])


def test_short_shifts_have_more_places(kaldi, tmp_path):
    write(kaldi, tmp_path, ["ctm"], shift=0.0025)
    *_, last = read_ctm(tmp_path / "phones.ctm").values()
    assert last[-1][0] + last[-1][1] == pytest.approx(
        len(list(kaldi.alignments.values())[-1]) * 0.0025, abs=0.0011
    )
    assert re.search(r" \d\.\d{3} \d\.\d{3} ", (tmp_path / "phones.ctm").read_text())


@pytest.mark.parametrize(
    ("features", "shift"),
    [
        (None, 0.01),
        ({}, 0.01),
        ({"frame_shift": 10.0, "sample_frequency": 16000.0}, 0.01),
        ({"frame_shift": 5.0, "sample_frequency": 8000.0}, 0.005),
        ({"frame_shift": 10.0, "sample_frequency": 22050.0}, 220 / 22050),
        ({"frame_shift": 12.5}, 0.0125),
    ],
)
def test_the_frame_shift_is_that_of_the_features(features, shift):
    assert frame_shift_seconds(features) == pytest.approx(shift, rel=1e-12)
