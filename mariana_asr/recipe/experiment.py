"""An experiment: the stages that a recipe stands for, each in a folder of its own.

corpus -> features -> lang -> mono -> tri1 -> tri2 -> tri3 -> ali -> frames -> dnn -> score
                                                           (ali_dnn -> frames_dnn2 -> dnn2)

Of each GMM system and network the hypotheses come from decode_SYSTEM, on graph_SYSTEM of the GMM
whose pdfs it has. A recipe that names Kaldi's alignments has no GMM systems.
"""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml

from mariana_asr.align.alignment import align
from mariana_asr.align.formats.model_io import read_transition_model
from mariana_asr.align.formats.tree_io import read_tree
from mariana_asr.align.pronunciations.probabilities import learn_pronunciations
from mariana_asr.align.training.lda_mllt import train_lda_mllt
from mariana_asr.align.training.mono import train_mono
from mariana_asr.align.training.sat import train_sat
from mariana_asr.align.training.triphone import train_deltas
from mariana_asr.corpus.datadir import DataDir, read_data_dir
from mariana_asr.corpus.prepare import check_corpus, corpus_files, prepare_corpus
from mariana_asr.decode.decoder import decode
from mariana_asr.decode.scorers import load_network
from mariana_asr.features.extract import extract_features
from mariana_asr.files import write_text
from mariana_asr.lang.graph import make_graph
from mariana_asr.lang.langdir import Lang, read_lang
from mariana_asr.lang.options import ArpaLm
from mariana_asr.options import Options
from mariana_asr.recipe.kaldi_import import (
    check_overlap,
    copy_lang,
    import_alignments,
    kaldi_alignment_files,
    kaldi_lang_files,
)
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
        return [
            *self._data_stages(),
            *self._gmm_stages(),
            *self._label_stages(),
            *self._network_stages("dnn", "ali"),
            *self._realigned_stages(),
            Stage(
                "score",
                self.score,
                _plain(self.recipe.score),
                after=("features", *(f"decode_{system}" for system in self.systems)),
                published=(RESULTS_JSON, RESULTS_TEXT, f"report/{REPORT_FILE}"),
            ),
        ]

    @property
    def networks(self) -> list[str]:
        """Names of the networks, in order."""
        return ["dnn", "dnn2"] if self.recipe.align.realign is not None else ["dnn"]

    @property
    def systems(self) -> list[str]:
        """Names of everything that is decoded: GMM systems and networks."""
        return [*self.recipe.align.rungs, *self.networks]

    def _data_stages(self) -> list[Stage]:
        recipe = self.recipe
        lexicon, kaldi = recipe.lang.lexicon, recipe.align.kaldi
        lang_files = (
            *((lexicon,) if lexicon and lexicon.is_file() else ()),
            *(sorted(lexicon.glob("*.txt")) if lexicon and lexicon.is_dir() else ()),
            *((recipe.lang.lm.path,) if isinstance(recipe.lang.lm, ArpaLm) else ()),
            *(kaldi_lang_files(kaldi, recipe.lang) if kaldi else ()),
        )
        lang_options = recipe.lang.model_dump(mode="json", exclude={"graph"})
        return [
            Stage("corpus", self.corpus, _plain(recipe.corpus), files=corpus_files(recipe.corpus)),
            Stage("features", self.features, _plain(recipe.features), after=("corpus",)),
            Stage("lang", self.lang, lang_options, after=("corpus",), files=lang_files),
        ]

    def _gmm_stages(self) -> list[Stage]:
        """A GMM system after the other, each with its graph and its hypotheses."""
        stages = []
        before: tuple[str, ...] = ()
        for rung in self.recipe.align.rungs:
            options = getattr(self.recipe.align, rung)
            train = partial(self.gmm, rung, before[0] if before else None)
            questions = getattr(options, "questions", None)
            files = (questions,) if questions else ()
            stages += [
                Stage(rung, train, _plain(options), ("features", "lang", *before), files),
                self._graph_stage(rung, "lang", rung),
                self._decode_stage(rung, f"graph_{rung}"),
            ]
            before = (rung,)
        return stages

    def _label_stages(self) -> list[Stage]:
        """The alignments that the network learns from, and what follows for its graph."""
        align = self.recipe.align
        options = {"labels": _plain(align.labels)}
        if align.kaldi is not None:
            return [
                Stage(
                    "ali",
                    self.import_ali,
                    options,
                    after=("features", "lang"),
                    files=kaldi_alignment_files(align.kaldi),
                ),
                self._graph_stage("ali", "lang", f"ali/{TRAIN}"),
            ]
        last = align.rungs[-1]
        stages = [Stage("ali", self.ali, options, after=("features", "lang", last))]
        if align.pronunciations is not None:
            stages += [
                Stage(
                    "lang_pron",
                    self.lang_pron,
                    _plain(align.pronunciations),
                    after=("corpus", "features", "lang", "ali"),
                ),
                self._graph_stage("pron", "lang_pron", last),
            ]
        return stages

    @property
    def _network_graph(self) -> str:
        """The graph that networks are decoded with."""
        align = self.recipe.align
        if align.kaldi is not None:
            return "graph_ali"
        return "graph_pron" if align.pronunciations is not None else f"graph_{align.rungs[-1]}"

    def _network_stages(self, network: str, ali: str) -> list[Stage]:
        """Packing of frames, training and decoding of a network on some alignments."""
        recipe = self.recipe
        frames = "frames" if network == "dnn" else f"frames_{network}"
        options = {"model": _plain(recipe.model), "train": _plain(recipe.train)}
        return [
            Stage(
                frames,
                partial(self.frames, ali),
                _plain(recipe.model.transform),
                after=("features", ali),
            ),
            Stage(network, partial(self.network, frames, ali), options, after=(ali, frames)),
            self._decode_stage(network, self._network_graph),
        ]

    def _realigned_stages(self) -> list[Stage]:
        """Alignments by the network, and a second one that learns from them."""
        realign = self.recipe.align.realign
        if realign is None:
            return []
        after = ("features", "lang", "dnn")
        return [
            Stage("ali_dnn", self.realign, _plain(realign), after=after),
            *self._network_stages("dnn2", "ali_dnn"),
        ]

    def _graph_stage(self, name: str, lang: str, model: str) -> Stage:
        return Stage(
            f"graph_{name}",
            partial(self.graph, lang, model),
            _plain(self.recipe.lang.graph),
            after=(lang, model.split("/")[0]),
        )

    def _decode_stage(self, system: str, graph: str) -> Stage:
        return Stage(
            f"decode_{system}",
            partial(self.decode, system, graph),
            _plain(self.recipe.decode),
            after=("features", system, graph),
        )

    def corpus(self, out: Path) -> None:
        """Data directories and dictionary."""
        prepare_corpus(self.recipe.corpus, out)
        if self.recipe.align.kaldi is not None:
            # Now, not after hours of feature extraction.
            check_overlap(read_data_dir(out / TRAIN), self.recipe.align.kaldi)

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
        section, kaldi = self.recipe.lang, self.recipe.align.kaldi
        transcripts = read_data_dir(self.folder / "corpus" / TRAIN).text.values()
        if kaldi is not None:
            copy_lang(kaldi, section, transcripts, out)
        else:
            make_lang(section, self._dictionary, transcripts, out)

    def gmm(self, rung: str, before: str | None, out: Path) -> None:
        """A GMM system, on the alignments of the one before, and its own of the training set."""
        align, train, lang = self.recipe.align, self._set(TRAIN), self._lang()
        if before is None:
            train_mono(train, lang, align.mono, out, jobs=self.jobs)
            return
        source = self.folder / before
        if rung == "tri1" and align.tri1 is not None:
            train_deltas(train, lang, source, align.tri1, out, jobs=self.jobs)
        elif rung == "tri2" and align.tri2 is not None:
            train_lda_mllt(train, lang, source, align.tri2, out, jobs=self.jobs)
        elif rung == "tri3" and align.tri3 is not None:
            train_sat(train, lang, source, align.tri3, out, jobs=self.jobs)

    def ali(self, out: Path) -> None:
        """Alignments of training and dev set with the last GMM system: the network's targets."""
        last = self.folder / self.recipe.align.rungs[-1]
        for name in (TRAIN, DEV):
            options = self.recipe.align.labels
            align(self._set(name), self._lang(), last, out / name, options, jobs=self.jobs)

    def import_ali(self, out: Path) -> None:
        """Kaldi's alignments of training and dev set."""
        kaldi, options = self.recipe.align.kaldi, self.recipe.align.labels
        assert kaldi is not None, "the stage is only there where the recipe names them"
        check_overlap(self._set(TRAIN), kaldi)
        for name in (TRAIN, DEV):
            data = self._set(name)
            import_alignments(data, self._lang(), kaldi, options, out / name, jobs=self.jobs)

    def realign(self, out: Path) -> None:
        """Alignments of training and dev set with the first network."""
        options = self.recipe.align.realign
        assert options is not None, "the stage is only there where the recipe asks for it"
        network = self.folder / "dnn"
        scorer = load_network(network, prior_scale=options.prior_scale)
        for name in (TRAIN, DEV):
            align(
                self._set(name),
                self._lang(),
                network,
                out / name,
                options,
                jobs=self.jobs,
                acoustic_model=scorer,
            )

    def lang_pron(self, out: Path) -> None:
        """The lang directory with probabilities of pronunciations and silence."""
        train = self._set(TRAIN)
        learn_pronunciations(
            train,
            self._lang(),
            self.folder / "ali" / TRAIN,
            self._dictionary,
            out / "dict",
            self.recipe.align.pronunciations,
            jobs=self.jobs,
        )
        make_lang(self.recipe.lang, out / "dict", train.text.values(), out)

    def graph(self, lang: str, model: str, out: Path) -> None:
        """HCLG for the tree and the transitions of a model."""
        model_dir = self.folder / model
        make_graph(
            self.folder / lang,
            read_tree(model_dir / "tree"),
            read_transition_model(model_dir / "final.mdl"),
            out,
            self.recipe.lang.graph,
        )

    def decode(self, system: str, graph: str, out: Path) -> None:
        """Hypotheses of a system for all sets but the training set."""
        for data in self._decoded_sets():
            decode(
                data,
                self.folder / system,
                self.folder / graph,
                out / data.path.name,
                self.recipe.decode,
                jobs=self.jobs,
            )

    def frames(self, ali: str, out: Path) -> None:
        """Features and targets, packed for training."""
        transform = self.recipe.model.transform
        for name in (TRAIN, DEV):
            pack_aligned_frames(self._set(name), self.folder / ali / name, transform, out / name)

    def network(self, frames: str, ali: str, out: Path) -> None:
        """A network."""
        train_acoustic_model(
            self.folder / frames / TRAIN,
            self.folder / frames / DEV,
            self.folder / ali / TRAIN,
            self.recipe.model,
            self.recipe.train,
            out,
        )

    def score(self, out: Path) -> None:
        """Error rates: ``results.json`` and ``RESULTS`` in the experiment's folder, the report."""
        results: list[Result] = []
        for system in self.systems:
            decoded = {
                data.path.name: (self.folder / f"decode_{system}" / data.path.name, data)
                for data in self._decoded_sets()
            }
            dev = decoded.pop(DEV)
            results += score_decodes(system, dev, decoded, self.recipe.score.metrics)
        write_results(self.folder, results)
        logs = {name: read_log(self.folder / name / "log.jsonl") for name in self.systems}
        write_report(
            self.folder / "report",
            self.recipe.name,
            results,
            network_logs={name: logs[name] for name in self.networks},
            gmm_logs={name: logs[name] for name in self.recipe.align.rungs},
            stages=stage_seconds(self.folder),
            recipe_text=self._recipe_text(),
        )

    @property
    def _dictionary(self) -> Path:
        """The lexicon or dict directory that the recipe names, or the corpus's own."""
        return self.recipe.lang.lexicon or self.folder / "corpus" / "dict"

    def _recipe_text(self) -> str:
        """The whole recipe with all defaults, as YAML."""
        return yaml.safe_dump(
            self.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True
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
