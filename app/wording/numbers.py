"""Numbers with their units, as people say them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from analysis.evaluate import Difference
from analysis.speed import COVERED, Ratio, Speed


def percent(fraction: float, signed: bool = False) -> str:
    """``0.25`` as ``25.0 %``, which no line break parts. What rounds to nothing has no sign."""
    told = round(100 * fraction, 1) or 0.0
    return minus(f"{told:{'+' if signed and told else ''}.1f}\N{NO-BREAK SPACE}%")


_PERCENT = re.compile(r"(?<=\d) ?%(?![\w%])")
_NEGATIVE = re.compile(r"(?<![\w.\-])-(?=\d)")


def typeset(text: str) -> str:
    """A sentence with a space before its percent signs that no line break parts, and with true minus signs.

    For sentences, and not for commands: there ``20%`` and ``-1`` are what one types.
    """
    return unparted(_NEGATIVE.sub("−", _PERCENT.sub("\N{NO-BREAK SPACE}%", text)))


_KEPT = re.compile(r"\b(?:S[BP] (?=\d)|\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d UTC)")


def unparted(text: str) -> str:
    """Put spaces that no line break parts into ``SB 10`` and ``SP 25``, and in the times of runs."""
    return _KEPT.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def memory(size: int) -> str:
    """Bytes in MiB or GiB."""
    gap = "\N{NO-BREAK SPACE}"
    return f"{size / 2**30:.2f}{gap}GiB" if size >= 2**30 else f"{size / 2**20:.0f}{gap}MiB"


def millions(count: int) -> str:
    """A count of parameters or FLOPs in millions or billions."""
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def parameters(count: int) -> str:
    """A count of parameters: up to a million in full."""
    return millions(count) if count >= 1e6 else f"{count:,}"


def flops(count: int) -> str:
    """FLOPs for one token."""
    return f"{count / 1e9:.2f} GFLOPs" if count >= 1e9 else f"{count / 1e6:.0f} MFLOPs"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as coarse as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def time_left(seconds: float | None, late: bool = False) -> str:
    """Say how long it still takes, no finer than that can be known; nothing where it is not known."""
    if late:
        return "longer than expected"
    if seconds is None:
        return ""
    if seconds < 60:
        return "less than a minute left"
    minutes = math.ceil(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    return f"about {math.ceil(minutes / 6) / 10:.1f} h left"


def ago(seconds: float) -> str:
    """Say how long ago something was, as one would say it."""
    if seconds < 90:
        return "just now" if seconds < 20 else "a minute ago"
    minutes = round(seconds / 60)
    hours = round(seconds / 3600)
    return f"{minutes} minutes ago" if minutes < 90 else f"{hours} hours ago"


def interval(pair: tuple[float, float] | None, digits: int = 2) -> str:
    """A 95 % interval, or why there is none."""
    if pair is None:
        return "no interval below 8 windows"
    return minus(f"{pair[0]:.{digits}f} to {pair[1]:.{digits}f}")


def change(each: Difference) -> str:
    """A paired difference as a signed change of perplexity."""
    return minus(f"{each.percent:+.1f}\N{NO-BREAK SPACE}%")


def times(timed: Speed | None, what: Literal["prompt", "generation"]) -> str:
    """Say how many times as fast as dense a model is, with the range over rounds, or why that is unknown."""
    if timed is None:
        return ""
    if timed.coverage < COVERED:
        return "too few rounds to tell"
    ratio: Ratio = getattr(timed, what)
    if not ratio.clear:
        return "too noisy to tell"
    return f"{ratio.median:.2f}× ({ratio.low:.2f} to {ratio.high:.2f})"


def minus(text: str) -> str:
    """The text with true minus signs."""
    return text.replace("-", "−")


def counted(number: int, what: str) -> str:
    """A number of things, with the plural where it is due."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def fewer(gone: float, asked: float | None = None) -> str:
    """Say what share of the parameters went, and what share was asked for where that is another.

    Whole blocks and whole units come near a size.
    """
    told = f"{percent(abs(gone))} {'fewer' if gone >= 0 else 'more'} parameters"
    if asked is None or abs(asked - gone) < 0.0005:
        return told
    return f"{told} (asked {100 * asked:g}\N{NO-BREAK SPACE}%, nearest {percent(gone)})"


def draws(count: int) -> str:
    """Say of how many draws of calibration windows a number is: another draw has another number."""
    return "one draw" if count == 1 else f"mean of {count} draws"


def joined(parts: Sequence[str]) -> str:
    """List parts as one would say them: ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def within_sentence(title: str) -> str:
    """A title as it stands in the middle of a sentence."""
    return title if title[1:2].isupper() else title[0].lower() + title[1:]
