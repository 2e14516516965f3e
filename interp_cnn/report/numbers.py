"""Numbers in words: known or not, signs, digits, p-values, durations."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_known(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    try:
        return value is not None and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def value_of(estimate: Any) -> float:
    """The value of an estimate, or of a bare number; NaN where there is none."""
    value = getattr(estimate, "value", estimate)
    return float(value) if is_known(value) else math.nan


def minus(text: str) -> str:
    """A number with a real minus sign, as wide as a plus."""
    return text.replace("-", "−")


def percent(estimate: Any) -> str:
    """`65 % [49, 78]`; without an interval `65 %`.

    Example:
        >>> percent(0.652)
        '65 %'
    """
    ends = [getattr(estimate, end, math.nan) for end in ("low", "high")]
    interval = f" [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]" if all(map(is_known, ends)) else ""
    return f"{100 * value_of(estimate):.0f} %{interval}"


def signed(value: float, digits: int) -> str:
    """A number with its sign, none for what rounds to zero."""
    text = f"{value:+.{digits}f}"
    return minus(text) if float(text) else text[1:]


def number(value: float, *, signed: bool = False, digits: int | None = None) -> str:
    """A number in groups of thousands; without `digits` three after the point up to 10, fewer above."""
    size = abs(value)
    digits = (3 if size < 10 else 1 if size < 1000 else 0) if digits is None else digits
    if not round(value, digits):
        return f"{0:.{digits}f}"
    return minus(f"{value:+,.{digits}f}" if signed else f"{value:,.{digits}f}")


def p_of(difference: Any) -> float:
    """The p-value of a difference, NaN where there is none."""
    return next(
        (float(p) for key in ("p", "p_value") if is_known(p := getattr(difference, key, None))), math.nan
    )


def p_value(difference: Any) -> str:
    """`p < 0.001` or `p = 0.04`, of a bound `p ≤ 0.004`; nothing where it is not known."""
    p, sign = p_of(difference), "≤" if getattr(difference, "bounded", False) else "="
    if not is_known(p):
        return ""
    text = "p < 0.001" if p < 0.001 else f"p {sign} {p:.3f}" if p < 0.1 else f"p {sign} {p:.2f}"
    return text.replace(" ", "\u00a0")


def duration(seconds: float) -> str:
    """`0.8 s`, `73 s`, `12 min 5 s`, `2 h 10 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
