"""Reading a decoding graph: HCLG.fst with its words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mariana_asr.errors import FormatError
from mariana_asr.lang.fst_arrays import from_fst, read_fst
from mariana_asr.lang.langdir import read_symbol_table


@dataclass(frozen=True)
class Graph:
    """A decoding graph.

    Attributes:
        path: The folder it was read from.
        fst: HCLG as a ``kaldifst.StdVectorFst``: transition ids in, word ids out.
        words: Word of each word id.
    """

    path: Path
    fst: Any
    words: dict[int, str]

    def check(self, num_transition_ids: int) -> None:
        """Check that a model has the transition ids, and ``words`` the words, of all arcs.

        A decoder takes a score for each transition id without looking whether there is one.

        Raises:
            FormatError: The graph was made for another model or other words.
        """
        arrays = from_fst(self.fst)
        largest = int(arrays.ilabel.max(initial=0))
        if largest > num_transition_ids:
            raise FormatError(
                f"the graph has transition ids up to {largest}, the model up to "
                f"{num_transition_ids}",
                where=self.path / "HCLG.fst",
                remedy="Make the graph again with this model",
            )
        unknown = set(arrays.olabel.tolist()) - self.words.keys()
        if unknown - {0}:
            raise FormatError(
                f"the graph has word ids that words.txt lacks, such as {min(unknown - {0})}",
                where=self.path / "words.txt",
                remedy="Copy words.txt from the lang directory that the graph was made of",
            )


def read_graph(graph_dir: str | Path) -> Graph:
    """Read ``HCLG.fst`` (vector, or const as Kaldi's mkgraph.sh writes it) and ``words.txt``.

    Raises:
        FormatError: A file is missing or damaged, or the graph is empty.
    """
    graph_dir = Path(graph_dir)
    fst = read_fst(graph_dir / "HCLG.fst")
    if fst.start < 0:
        raise FormatError(
            "the graph is empty: it accepts nothing",
            where=graph_dir / "HCLG.fst",
            remedy="Check that the language model's words are in the lexicon",
        )
    words = read_symbol_table(graph_dir / "words.txt")
    return Graph(graph_dir, fst, {number: word for word, number in words.items()})


def read_silence_phones(graph_dir: str | Path) -> list[int]:
    """Read the ids of silence and noise phones that make_graph and mkgraph.sh put into a graph.

    Raises:
        FormatError: ``phones/silence.csl`` is missing or damaged.
    """
    path = Path(graph_dir) / "phones" / "silence.csl"
    try:
        return [int(phone) for phone in path.read_text(encoding="utf-8").split(":")]
    except FileNotFoundError as error:
        raise FormatError(
            "no such file, but adaptation must know silence from speech",
            where=path,
            remedy="Copy it from the lang directory that the graph was made of",
        ) from error
    except ValueError as error:
        raise FormatError("expected phone ids joined by colons", where=path) from error
