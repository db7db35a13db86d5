"""An experiment: the stages that a recipe stands for, each in a folder of its own.

corpus -> features -> lang -> mono -> tri1 -> tri2 -> tri3 -> ali -> frames -> dnn -> score
                                                           (ali_dnn -> frames_dnn2 -> dnn2)
                 (lang_seq -> graph_seq, ali_seq -> frames_seq -> lattices_seq -> dnn_seq)

Of each GMM system and network the hypotheses come from decode_SYSTEM, on graph_SYSTEM of the GMM
whose pdfs it has. A recipe that names Kaldi's alignments has no GMM systems. Features of the
network's own are made by features_net; networks on adapted features take the speakers' transforms
from ali and, of the decoded sets, from the decoding of the last GMM system. Copies of the training
set at other speeds have stages of their own, whose names end in _sp; what networks are to read in
rooms and noise is made by features_aug.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mariana_asr.align.alignment import AlignOptions
from mariana_asr.corpus.prepare import check_corpus, corpus_files
from mariana_asr.engine.options.engine import RUN_OPTIONS
from mariana_asr.features.augmentation.noises import recordings_of
from mariana_asr.files import write_text
from mariana_asr.lang.options import ArpaLm
from mariana_asr.nnet.options import CustomOptions
from mariana_asr.options import Options
from mariana_asr.recipe.early_checks import check_early
from mariana_asr.recipe.kaldi_import import (
    kaldi_alignment_files,
    kaldi_lang_files,
)
from mariana_asr.recipe.language import read_section_dictionary
from mariana_asr.recipe.load import recipe_text
from mariana_asr.recipe.runner import (
    PlannedStage,
    SharedStages,
    Stage,
    plan_stages,
    run_stages,
)
from mariana_asr.recipe.schema import SEQUENCE_NETWORK, Recipe
from mariana_asr.recipe.sets import (
    COPIES,
    COPIES_SUFFIX,
    DEV,
    DISTORTED_FEATURES,
    NETWORK_COPIES,
    NETWORK_FEATURES,
    TRAIN,
    TRAIN_COPIES,
)
from mariana_asr.recipe.work import StageWork
from mariana_asr.score.report import REPORT_FILE
from mariana_asr.score.results import RESULTS_JSON, RESULTS_TEXT

RECIPE_FILE = "recipe.yaml"
"""The recipe as it was run, with all defaults, in the experiment's folder."""


class Experiment:
    """A recipe with the folder of its outputs, and the list of its stages."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        jobs: int,
        allow_pipes: bool,
        shared: SharedStages | None = None,
    ) -> None:
        """``jobs`` and ``allow_pipes`` do not change outputs, so they are not in the recipe.

        Args:
            recipe: What to do.
            folder: Where the outputs go, one folder a stage.
            jobs: Number of processes for what runs over utterances.
            allow_pipes: Whether ``wav.scp`` may hold shell commands.
            shared: Where stages are that it may have in common with other experiments.
        """
        self.recipe = recipe
        self.folder = folder
        self.shared = shared
        self._work = StageWork(recipe, folder, jobs=jobs, allow_pipes=allow_pipes)

    def check_inputs(self) -> None:
        """Check what can be checked of the recipe's inputs without running a stage.

        Raises:
            MarianaError: A corpus, data directory, lexicon or network is missing or wrong.
        """
        check_corpus(self.recipe.corpus)
        check_early(self.recipe)
        if self.recipe.lang.lexicon is not None:
            read_section_dictionary(self.recipe.lang, self.recipe.lang.lexicon)

    def run(self) -> None:
        """Run the stages that are not up to date.

        Raises:
            MarianaError: Whatever a stage raises.
        """
        check_early(self.recipe)
        write_text(self.folder / RECIPE_FILE, recipe_text(self.recipe))
        run_stages(self.stages(), self.folder, self.shared)

    def plan(self) -> list[PlannedStage]:
        """What a run would do.

        Raises:
            DataError: A file that the recipe names cannot be read.
        """
        return plan_stages(self.stages(), self.folder, self.shared)

    def stages(self) -> list[Stage]:
        """The stages in order, with what each depends on."""
        return [
            *self._data_stages(),
            *self._gmm_stages(),
            *self._label_stages(),
            *self._network_stages("dnn", "ali"),
            *self._realigned_stages(),
            *self._sequence_stages(),
            Stage(
                "score",
                self._work.score,
                _plain(self.recipe.score),
                after=("features", *(f"decode_{system}" for system in self.recipe.systems)),
                published=(RESULTS_JSON, RESULTS_TEXT, f"report/{REPORT_FILE}"),
            ),
        ]

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
            Stage(
                "corpus",
                self._work.corpus,
                _plain(recipe.corpus),
                files=corpus_files(recipe.corpus),
            ),
            *self._feature_stages(),
            Stage("lang", self._work.lang, lang_options, after=("corpus",), files=lang_files),
        ]

    def _feature_stages(self) -> list[Stage]:
        """Features of the GMMs, of the network's own, and of variants of the training set."""
        recipe, work = self.recipe, self._work
        own, adapted, augmentation = (
            recipe.model.features,
            recipe.model.adapted,
            recipe.augmentation,
        )
        features = _plain(recipe.features)
        stages = [Stage("features", work.features, features, after=("corpus",))]
        if own is not None:
            after = ("corpus", "features") if adapted else ("corpus",)
            stages.append(Stage(NETWORK_FEATURES, work.network_features, _plain(own), after))
        if augmentation is None:
            return stages
        speeds = {"speeds": list(augmentation.speeds)}
        if COPIES in self._copy_features:
            stages.append(Stage(COPIES, work.copies, features | speeds, after=("corpus",)))
        if own is not None and NETWORK_COPIES in self._copy_features:
            after = ("corpus", COPIES) if adapted else ("corpus",)
            stages.append(Stage(NETWORK_COPIES, work.network_copies, _plain(own) | speeds, after))
        if augmentation.distorts:
            options = {
                "augmentation": _plain(augmentation),
                "recordings": recordings_of(augmentation),
                "features": features,
                "own": None if own is None else _plain(own),
                "adapted": adapted,
            }
            stages.append(Stage(DISTORTED_FEATURES, work.distorted, options, after=("corpus",)))
        return stages

    @property
    def _copy_features(self) -> tuple[str, ...]:
        """The stages that have features of the training set's copies, undistorted."""
        recipe = self.recipe
        if not recipe.has_speed_copies:
            return ()
        read = not recipe.distorts or recipe.realigns
        own = recipe.model.features is not None and read
        return (COPIES, NETWORK_COPIES) if own else (COPIES,)

    def _gmm_stages(self) -> list[Stage]:
        """A GMM system after the other, each with its graph and its hypotheses."""
        stages = []
        before: tuple[str, ...] = ()
        for rung in self.recipe.align.rungs:
            options = getattr(self.recipe.align, rung)
            train = partial(self._work.gmm, rung, before[0] if before else None)
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
            adapted = self.recipe.model.adapted
            files = kaldi_alignment_files(align.kaldi, adapted=adapted)
            return [
                *self._alignment(
                    "ali", self._work.import_ali, options, ("features", "lang"), files
                ),
                self._graph_stage("ali", "lang", f"ali/{TRAIN}"),
                *([self._decode_stage("ali", "graph_ali")] if adapted else []),
            ]
        last = align.rungs[-1]
        stages = self._alignment("ali", self._work.ali, options, ("features", "lang", last))
        if align.pronunciations is not None:
            stages += [
                Stage(
                    "lang_pron",
                    self._work.lang_pron,
                    _plain(align.pronunciations),
                    after=("corpus", "features", "lang", "ali"),
                ),
                self._graph_stage("pron", "lang_pron", last),
            ]
        return stages

    def _alignment(
        self,
        name: str,
        work: Callable[[Sequence[str], Path], None],
        options: Mapping[str, object],
        after: tuple[str, ...],
        files: tuple[Path, ...] = (),
    ) -> list[Stage]:
        """Alignment of the training and the dev set, and in a stage apart of the copies."""
        stages = [Stage(name, partial(work, (TRAIN, DEV)), options, after, files)]
        if self.recipe.has_speed_copies:
            copies = partial(work, (TRAIN_COPIES,))
            after = (*after, *self._copy_features, *(("ali_sp",) if name != "ali" else ()))
            stages.append(Stage(f"{name}{COPIES_SUFFIX}", copies, options, after, files))
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
        options = {
            "model": _plain(recipe.model),
            "train": _plain(recipe.train.engine_options),
            "engine": recipe.engine.model_dump(mode="json", exclude=set(RUN_OPTIONS)),
        }
        selects = recipe.train.num_kept_epochs > 0
        trained = f"train_{network}" if selects else network
        return [
            self._frames_stage(frames, ali),
            Stage(
                trained,
                partial(self._work.network, frames, ali),
                options,
                after=(ali, frames),
                files=self._network_files(),
            ),
            *([self._selection_stage(network, frames, trained)] if selects else []),
            self._decode_stage(network, self._network_graph),
        ]

    def _frames_stage(self, name: str, ali: str) -> Stage:
        """Packing of frames with some alignments."""
        model = self.recipe.model
        packing = _plain(model.transform) | {"storage": self.recipe.engine.storage}
        if model.adapted:
            packing["adapted"] = True
        after = self._aligned_inputs(ali, *self._training_variants(ali))
        return Stage(name, partial(self._work.frames, ali), packing, after)

    def _selection_stage(self, network: str, frames: str, trained: str) -> Stage:
        """The choice among a training's epochs and averages of them, by loss or by error rate."""
        train, graph = self.recipe.train, self._network_graph
        options: dict[str, object] = {"select": train.select, "average": train.average}
        after: tuple[str, ...] = (trained, frames)
        if train.select == "wer":
            options["metric"] = self.recipe.score.metrics[0]
            options["decode"] = self.recipe.decode.model_dump(mode="json", exclude={"sets"})
            after = (*self._decoded_by_networks, graph, *after)
        work = partial(self._work.select, frames, trained, graph)
        return Stage(network, work, options, after)

    @property
    def _decoded_by_networks(self) -> tuple[str, ...]:
        """What networks read of a set that they decode."""
        adapting = (self.recipe.adapting_stage,) if self.recipe.model.adapted else ()
        return (*self._network_data, *adapting)

    @property
    def _network_data(self) -> tuple[str, ...]:
        """The stages that have the features of networks and the utterances that count."""
        own = self.recipe.model.features is not None
        return ("features", NETWORK_FEATURES) if own else ("features",)

    def _aligned_inputs(self, *stages: str) -> tuple[str, ...]:
        """What networks read of a set that the GMMs have aligned, and other stages."""
        adapted = ("ali",) if self.recipe.model.adapted else ()
        return tuple(dict.fromkeys((*self._network_data, *adapted, *stages)))

    def _training_variants(self, ali: str) -> tuple[str, ...]:
        """The stages that have variants of the training set, and the alignments of copies."""
        recipe, stages = self.recipe, self._copy_features
        if recipe.has_speed_copies:
            stages += ("ali_sp", f"{ali}{COPIES_SUFFIX}")
        return (*stages, DISTORTED_FEATURES) if recipe.distorts else stages

    def _network_files(self) -> tuple[Path, ...]:
        """The file of a network of the user's own: another text may be another network."""
        if not isinstance(self.recipe.model, CustomOptions):
            return ()
        from mariana_asr.nnet.custom import network_source

        return (network_source(self.recipe.model),)

    def _realigned_stages(self) -> list[Stage]:
        """Alignments by the network, and a second one that learns from them."""
        realign = self.recipe.align.realign
        if realign is None:
            return []
        return [
            *self._realignment("ali_dnn", "dnn", realign),
            *self._network_stages("dnn2", "ali_dnn"),
        ]

    def _realignment(self, name: str, network: str, options: AlignOptions) -> list[Stage]:
        """Alignments by a network."""
        work = partial(self._work.realign, network, options)
        after = self._aligned_inputs("lang", network)
        return self._alignment(name, work, _plain(options), after)

    def _sequence_stages(self) -> list[Stage]:
        """Lattices by the last network, and a network that begins as that and learns from them."""
        recipe, work = self.recipe, self._work.sequence
        section = recipe.sequence
        if section is None:
            return []
        start = recipe.align.networks[-1]
        frames = "frames" if start == "dnn" else f"frames_{start}"
        stages = []
        prior_scale = recipe.sequence_prior_scale
        if section.realign:
            frames, options = "frames_seq", recipe.align.realign or AlignOptions()
            options = options.model_copy(update={"prior_scale": prior_scale})
            stages += self._realignment("ali_seq", start, options)
            stages.append(self._frames_stage(frames, "ali_seq"))
        lang = "lang_pron" if recipe.align.pronunciations is not None else "lang"
        scales = {"acoustic_scale": section.acoustic_scale, "prior_scale": prior_scale}
        searched = _plain(section.lattices) | scales
        order = {"lm_order": searched.pop("lm_order")}
        lattices = partial(work.lattices, start, frames, "graph_seq")
        unread = {"lattices", "realign", *scales}
        trained = scales | {
            "sequence": section.model_dump(mode="json", exclude=unread),
            "engine": recipe.engine.model_dump(mode="json", exclude=set(RUN_OPTIONS)),
        }
        return [
            *stages,
            Stage("lang_seq", partial(work.lang, lang), order, after=("features", lang)),
            self._graph_stage("seq", "lang_seq", start),
            Stage("lattices_seq", lattices, searched, (start, frames, "graph_seq")),
            Stage(
                SEQUENCE_NETWORK,
                partial(work.network, start, frames, "lattices_seq"),
                trained,
                after=("lang", start, frames, "lattices_seq"),
                files=self._network_files(),
            ),
            self._decode_stage(SEQUENCE_NETWORK, self._network_graph),
        ]

    def _graph_stage(self, name: str, lang: str, model: str) -> Stage:
        return Stage(
            f"graph_{name}",
            partial(self._work.graph, lang, model),
            _plain(self.recipe.lang.graph),
            after=(lang, model.split("/")[0]),
        )

    def _decode_stage(self, system: str, graph: str) -> Stage:
        is_network = system in self.recipe.networks
        after = self._decoded_by_networks if is_network else ("features",)
        return Stage(
            f"decode_{system}",
            partial(self._work.decode, f"ali/{TRAIN}" if system == "ali" else system, graph),
            _plain(self.recipe.decode),
            after=(*after, system, graph),
        )


def _plain(options: Options) -> dict[str, object]:
    """Options as plain values, for a fingerprint."""
    return options.model_dump(mode="json")
