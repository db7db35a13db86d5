"""An experiment: the stages that a recipe stands for, each in a folder of its own.

corpus -> features -> lang -> mono -> graph_mono -> decode_mono --------+
                                |                                       +-> score
                                +-> align_dev -> frames -> dnn -> decode_dnn
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import yaml

from mariana_asr.align.alignment import align
from mariana_asr.align.model_io import read_transition_model
from mariana_asr.align.mono import train_mono
from mariana_asr.align.tree_io import read_tree
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.corpus.prepare import check_corpus, corpus_files, prepare_corpus
from mariana_asr.decode.decoder import decode
from mariana_asr.features.extract import extract_features
from mariana_asr.files import write_text
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.options import ArpaLm
from mariana_asr.options import Options
from mariana_asr.recipe.language import make_lang, read_section_dictionary
from mariana_asr.recipe.network import pack_aligned_frames, train_acoustic_model
from mariana_asr.recipe.runner import Stage, run_stages, stage_seconds
from mariana_asr.recipe.schema import Recipe
from mariana_asr.score.report import REPORT_FILE, read_log, write_report
from mariana_asr.score.results import RESULTS_JSON, RESULTS_TEXT, Result, write_results
from mariana_asr.score.tuning import score_decodes

logger = logging.getLogger(__name__)

TRAIN, DEV = "train", "dev"
RECIPE_FILE = "recipe.yaml"
"""The recipe as it was run, with all defaults, in the experiment's folder."""


class Experiment:
    """A recipe with the folder of its outputs: the list of its stages, and a method for each."""

    def __init__(self, recipe: Recipe, folder: Path, *, jobs: int, allow_pipes: bool) -> None:
        """``jobs`` and ``allow_pipes`` do not change outputs, so they are not in the recipe.

        Args:
            recipe: What to do.
            folder: Where the outputs go, one folder a stage.
            jobs: Number of processes for what runs over utterances.
            allow_pipes: Whether ``wav.scp`` may hold shell commands.
        """
        self.recipe = recipe
        self.folder = folder
        self.jobs = jobs
        self.allow_pipes = allow_pipes

    def check_inputs(self) -> None:
        """Check what can be checked of the recipe's inputs without running a stage.

        Raises:
            MarianaError: A corpus, data directory or lexicon is missing or wrong.
        """
        check_corpus(self.recipe.corpus)
        if self.recipe.lang.lexicon is not None:
            read_section_dictionary(self.recipe.lang, self.recipe.lang.lexicon)

    def run(self) -> None:
        """Run the stages that are not up to date.

        Raises:
            MarianaError: Whatever a stage raises.
        """
        write_text(self.folder / RECIPE_FILE, self._recipe_text())
        run_stages(self.stages(), self.folder)

    def stages(self) -> list[Stage]:
        """The stages in order, with what each depends on."""
        recipe = self.recipe
        lexicon = recipe.lang.lexicon
        lang_files = tuple(
            path
            for path in (
                *((lexicon,) if lexicon and lexicon.is_file() else ()),
                *(sorted(lexicon.glob("*.txt")) if lexicon and lexicon.is_dir() else ()),
                *((recipe.lang.lm.path,) if isinstance(recipe.lang.lm, ArpaLm) else ()),
            )
        )
        return [
            Stage("corpus", self.corpus, _plain(recipe.corpus), files=corpus_files(recipe.corpus)),
            Stage("features", self.features, _plain(recipe.features), after=("corpus",)),
            Stage(
                "lang",
                self.lang,
                recipe.lang.model_dump(mode="json", exclude={"graph"}),
                after=("corpus",),
                files=lang_files,
            ),
            Stage("mono", self.mono, _plain(recipe.align.mono), after=("features", "lang")),
            Stage("graph_mono", self.graph_mono, _plain(recipe.lang.graph), after=("lang", "mono")),
            Stage(
                "decode_mono",
                self.decode_mono,
                _plain(recipe.decode),
                after=("features", "mono", "graph_mono"),
            ),
            Stage(
                "align_dev",
                self.align_dev,
                _plain(recipe.align.held_out),
                after=("features", "lang", "mono"),
            ),
            Stage(
                "frames",
                self.frames,
                _plain(recipe.model.transform),
                after=("features", "mono", "align_dev"),
            ),
            Stage(
                "dnn",
                self.dnn,
                {"model": _plain(recipe.model), "train": _plain(recipe.train)},
                after=("mono", "frames"),
            ),
            Stage(
                "decode_dnn",
                self.decode_dnn,
                _plain(recipe.decode),
                after=("features", "dnn", "graph_mono"),
            ),
            Stage(
                "score",
                self.score,
                _plain(recipe.score),
                after=("features", "decode_mono", "decode_dnn"),
                published=(RESULTS_JSON, RESULTS_TEXT, f"report/{REPORT_FILE}"),
            ),
        ]

    def corpus(self, out: Path) -> None:
        """Data directories and dictionary."""
        prepare_corpus(self.recipe.corpus, out)

    def features(self, out: Path) -> None:
        """Features and CMVN statistics of every set."""
        for path in sorted((self.folder / "corpus").glob("*/utt2spk")):
            extract_features(
                read_data_dir(path.parent),
                out / path.parent.name,
                self.recipe.features,
                jobs=self.jobs,
                allow_pipes=self.allow_pipes,
            )

    def lang(self, out: Path) -> None:
        """The lang directory, with G."""
        corpus = self.folder / "corpus"
        section = self.recipe.lang
        transcripts = read_data_dir(corpus / TRAIN).text.values()
        make_lang(section, section.lexicon or corpus / "dict", transcripts, out)

    def mono(self, out: Path) -> None:
        """The monophone GMM, and the alignment of the training set."""
        train_mono(self._set(TRAIN), self._lang(), self.recipe.align.mono, out, jobs=self.jobs)

    def graph_mono(self, out: Path) -> None:
        """HCLG for the monophone tree."""
        model = self.folder / "mono"
        make_graph(
            self.folder / "lang",
            read_tree(model / "tree"),
            read_transition_model(model / "final.mdl"),
            out,
            self.recipe.lang.graph,
        )

    def decode_mono(self, out: Path) -> None:
        """Hypotheses of the monophone GMM for all sets but the training set."""
        self._decode("mono", out)

    def align_dev(self, out: Path) -> None:
        """Alignment of the dev set, the held-out frames of the network's training."""
        align(
            self._set(DEV),
            self._lang(),
            self.folder / "mono",
            out,
            self.recipe.align.held_out,
            jobs=self.jobs,
        )

    def frames(self, out: Path) -> None:
        """Features and targets, packed for training."""
        transform = self.recipe.model.transform
        pack_aligned_frames(self._set(TRAIN), self.folder / "mono", transform, out / TRAIN)
        pack_aligned_frames(self._set(DEV), self.folder / "align_dev", transform, out / DEV)

    def dnn(self, out: Path) -> None:
        """The network."""
        frames = self.folder / "frames"
        train_acoustic_model(
            frames / TRAIN,
            frames / DEV,
            self.folder / "mono",
            self.recipe.model,
            self.recipe.train,
            out,
        )

    def decode_dnn(self, out: Path) -> None:
        """Hypotheses of the network for all sets but the training set."""
        self._decode("dnn", out)

    def score(self, out: Path) -> None:
        """Error rates: ``results.json`` and ``RESULTS`` in the experiment's folder, the report."""
        results: list[Result] = []
        for system in ("mono", "dnn"):
            decoded = {
                data.path.name: (self.folder / f"decode_{system}" / data.path.name, data)
                for data in self._decoded_sets()
            }
            dev = decoded.pop(DEV)
            results += score_decodes(system, dev, decoded, self.recipe.score.metrics)
        write_results(self.folder, results)
        write_report(
            self.folder / "report",
            self.recipe.name,
            results,
            network_logs={"dnn": read_log(self.folder / "dnn" / "log.jsonl")},
            gmm_logs={"mono": read_log(self.folder / "mono" / "log.jsonl")},
            stages=stage_seconds(self.folder),
            recipe_text=self._recipe_text(),
        )

    def _recipe_text(self) -> str:
        """The whole recipe with all defaults, as YAML."""
        return yaml.safe_dump(
            self.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )

    def _decode(self, system: str, out: Path) -> None:
        for data in self._decoded_sets():
            decode(
                data,
                self.folder / system,
                self.folder / "graph_mono",
                out / data.path.name,
                self.recipe.decode,
                jobs=self.jobs,
            )

    def _decoded_sets(self) -> Iterator[DataDir]:
        for path in sorted((self.folder / "features").glob("*/utt2spk")):
            if path.parent.name != TRAIN:
                yield read_data_dir(path.parent)

    def _set(self, name: str) -> DataDir:
        return read_data_dir(self.folder / "features" / name)

    def _lang(self) -> Lang:
        return read_lang(self.folder / "lang")


def _plain(options: Options) -> dict[str, object]:
    """Options as plain values, for a fingerprint."""
    return options.model_dump(mode="json")
