"""The nodes of a decision tree: questions on the way from a context to its pdf."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mariana_asr.align.formats.kaldi_stream import encode_integer, encode_integers, encode_token
from mariana_asr.align.formats.tree_io import ContextDependency, tree_from_bytes


@dataclass
class EventNode:
    """A node: a leaf, a question with two children, or a table (Kaldi: EventMap).

    Attributes:
        leaf: Number of a leaf; -1 elsewhere.
        key: What a question or a table asks about.
        members: Values for which the answer of a question is yes, in rising order.
        children: Of a question: the yes and the no node; of a table: one for each value from 0,
            None where the value does not occur.
    """

    leaf: int = -1
    key: int = 0
    members: tuple[int, ...] | None = None
    children: list["EventNode | None"] = field(default_factory=list)

    @classmethod
    def question(
        cls, key: int, members: tuple[int, ...], yes: "EventNode", no: "EventNode"
    ) -> "EventNode":
        """A question with two children."""
        return cls(key=key, members=members, children=[yes, no])

    def split(
        self, key: int, members: tuple[int, ...], no_leaf: int
    ) -> tuple["EventNode", "EventNode"]:
        """Make a leaf a question; its yes child keeps the leaf's number."""
        yes, no = EventNode(self.leaf), EventNode(no_leaf)
        self.leaf, self.key, self.members, self.children = -1, key, members, [yes, no]
        return yes, no

    def leaves(self) -> Iterator["EventNode"]:
        """All leaves below, the node itself among them; several can have one number."""
        stack = [self]
        while stack:
            node = stack.pop()
            if node.leaf >= 0:
                yield node
            stack += [child for child in reversed(node.children) if child is not None]

    def map(self, contexts: NDArray[np.integer]) -> NDArray[np.int64]:
        """The leaf of each context, (C, 1 + N) to (C,); -1 where the tree has none."""
        answers = np.full(len(contexts), -1, dtype=np.int64)
        stack: list[tuple[EventNode, NDArray[np.int64]]] = [(self, np.arange(len(contexts)))]
        while stack:
            node, rows = stack.pop()
            if node.leaf >= 0:
                answers[rows] = node.leaf
                continue
            values = contexts[rows, 1 + node.key]
            if node.members is not None:
                places = np.where(np.isin(values, node.members), 0, 1)
                places[values < 0] = -1  # not to be asked about
            else:
                places = values
            for place in np.unique(places).tolist():
                if 0 <= place < len(node.children):
                    child = node.children[place]
                    if child is not None:
                        stack.append((child, rows[places == place]))
        return answers

    def renumber(self, numbers: NDArray[np.integer]) -> None:
        """Give leaf n the number ``numbers[n]``."""
        for leaf in self.leaves():
            leaf.leaf = int(numbers[leaf.leaf])

    def to_context_dependency(self, width: int, central: int) -> ContextDependency:
        """The tree whose root this is, as Kaldi's code takes it."""
        parts = [encode_token("ContextDependency"), encode_integer(width), encode_integer(central)]
        parts += [encode_token("ToPdf"), *self._encode(), encode_token("EndContextDependency")]
        return tree_from_bytes(b"".join(parts))

    def _encode(self) -> Iterator[bytes]:
        """Kaldi's binary form; with a stack of our own, since trees can be deep."""
        stack: list[EventNode | str | None] = [self]
        while stack:
            node = stack.pop()
            if node is None or isinstance(node, str):
                yield encode_token(node or "NULL")
            elif node.leaf >= 0:
                yield encode_token("CE") + encode_integer(node.leaf)
            elif node.members is not None:
                yield encode_token("SE") + encode_integer(node.key)
                yield encode_integers(list(node.members)) + encode_token("{")
                stack += ["}", *reversed(node.children)]
            else:
                yield encode_token("TE") + encode_integer(node.key)
                yield encode_integer(len(node.children), unsigned=True) + encode_token("(")
                stack += [")", *reversed(node.children)]
