"""TextGrid files of Praat, in its long text form."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A stretch of time with a label; times in seconds."""

    start: float
    end: float
    text: str


def textgrid_text(tiers: Mapping[str, Sequence[Interval]], duration: float) -> str:
    """Make the text of a TextGrid of interval tiers.

    Args:
        tiers: Name of each tier to its intervals, which follow one another from 0 to the end.
        duration: Seconds.

    Source: Praat's manual, "TextGrid file formats".
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration!r}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, intervals) in enumerate(tiers.items(), 1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f"        name = {_quoted(name)}",
            "        xmin = 0",
            f"        xmax = {duration!r}",
            f"        intervals: size = {len(intervals)}",
        ]
        for index, interval in enumerate(intervals, 1):
            lines += [
                f"        intervals [{index}]:",
                f"            xmin = {interval.start!r}",
                f"            xmax = {interval.end!r}",
                f"            text = {_quoted(interval.text)}",
            ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
