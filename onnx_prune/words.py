"""Numbers, names and choices in words, for people to read; needs nothing but Python."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def plain(text: object) -> str:
    r"""The text on one line, with everything that a terminal would obey or hide spelled out.

    Names come from models and files that anyone may have made: escape sequences, line breaks,
    directions of writing and lone surrogates become visible.

    Example:
        >>> print(plain("conv\x1b[2J\n[red]ü"))
        conv\x1b[2J\n[red]ü
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def human(value: float, unit: str = "") -> str:
    """A count or size with three digits and a decimal prefix.

    Example:
        >>> human(25_557_032), human(4_111_514_624), human(102_530_333, "B"), human(512), human(999_999)
        ('25.6 M', '4.11 G', '103 MB', '512', '1.00 M')
    """
    if not math.isfinite(value):
        return "?"
    power = 0
    while abs(value) >= (1000 if power == 0 else 999.5) and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    number = f"{value:.0f}" if power == 0 else digits(value)
    return f"{number} {_PREFIXES[power]}{unit}".strip()


def duration(milliseconds: float) -> str:
    """A time with three digits, in the unit that suits it.

    Example:
        >>> duration(12.34), duration(0.0567), duration(1234.5), duration(999.7)
        ('12.3 ms', '56.7 us', '1.23 s', '1.00 s')
    """
    if not math.isfinite(milliseconds):
        return "?"
    if milliseconds >= 999.5:
        return f"{digits(milliseconds / 1000)} s"
    return f"{digits(milliseconds)} ms" if milliseconds >= 0.09995 else f"{digits(milliseconds * 1000)} us"


def digits(value: float) -> str:
    """A number below a thousand with three significant digits, or none after the point if it is larger.

    Example:
        >>> digits(9.996), digits(99.96), digits(3.14159), digits(1234.5)
        ('10.0', '100', '3.14', '1234')
    """
    places = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{places}f}"


def times(before: float, after: float) -> str:
    """How many times smaller `after` is.

    Example:
        >>> times(25.6, 6.8), times(100, 4), times(1, 0)
        ('3.8x', '25x', '')
    """
    if not after or not math.isfinite(before / after):
        return ""
    ratio = before / after
    return f"{ratio:.1f}x" if ratio < 9.95 else f"{ratio:.0f}x"


def change(before: float, after: float) -> str:
    """The change in per cent of `before`.

    Example:
        >>> change(100, 26), change(1000, 996), change(10, 12), change(0, 1), change(5, 5)
        ('-74 %', '-0.4 %', '+20 %', '', '0 %')
    """
    if not before or not math.isfinite(after / before):
        return ""
    percent = 100 * (after - before) / before
    if percent == 0:
        return "0 %"
    return f"{percent:+.0f} %" if abs(percent) >= 0.95 else f"{percent:+.1g} %"


def share(part: float, whole: float) -> str:
    """A share in per cent.

    Example:
        >>> share(1, 2), share(1, 3), share(1, 5000), share(0, 7), share(0, 0)
        ('50 %', '33.3 %', '<0.1 %', '0 %', '0 %')
    """
    percent = 100 * part / whole if whole else 0.0
    if not math.isfinite(percent):
        return "?"
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f}".removesuffix(".0") + " %"


def scientific(value: float) -> str:
    """An error in the shortest form.

    Example:
        >>> scientific(3.2e-7), scientific(0.0), scientific(2e-11)
        ('3e-7', '0', '2e-11')
    """
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def some(number: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> some(1, "group"), some(2, "axis"), some(1200, "run")
        ('1 group', '2 axes', '1,200 runs')
    """
    plural = "axes" if noun == "axis" else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like another; "" if none is close.

    Example:
        >>> closest("explian", ["compare", "explain"]), closest("xyz", ["l1", "l2"])
        ('explain', '')
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), "")


def guess(word: str, known: Iterable[str]) -> str:
    """A suggestion for a word that is not known, ready to follow a message; "" if nothing is close.

    Example:
        >>> guess("--rato", ["--ratio", "--global"]), guess("xyz", ["l1", "l2"])
        ('; did you mean --ratio?', '')
    """
    close = closest(word, known)
    return f"; did you mean {plain(close)}?" if close else ""
