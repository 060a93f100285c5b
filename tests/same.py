"""Whether two outputs say the same, whatever was computed beside it and on which processor."""

from __future__ import annotations

import re
from typing import Any

NUMBER = re.compile(r"(?<![\w.])(-?\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?(?![\w.])")


def alike(one: Any, two: Any) -> bool:
    """Whether two texts, or the texts of two things, are the same but for the last digit of their decimal numbers.

    Sums in single precision depend on what shares a batch, by 1e-7 of a value on some processors: of values that are
    printed with four decimals a few in a thousand are then rounded to the next digit, and none further.
    """
    one, two = (each.decode() if isinstance(each, bytes) else str(each) for each in (one, two))
    if NUMBER.sub("#", one) != NUMBER.sub("#", two):
        return False
    return all(_next(a, b) for a, b in zip(NUMBER.finditer(one), NUMBER.finditer(two), strict=True))


def _next(one: re.Match[str], two: re.Match[str]) -> bool:
    if one[0] == two[0]:
        return True
    steps = [10.0 ** (int(each[3] or 0) - len(each[2])) for each in (one, two) if each[2]]
    return bool(steps) and abs(float(one[0]) - float(two[0])) <= 1.01 * min(steps)
