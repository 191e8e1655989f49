"""Amounts in words: durations and bytes as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """ "under 1 s", "42 s", "7 min", "3 h 05 min", "5 days 07 h", "12 years"."""
    if seconds < 0.5:
        return "under 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 4 * 24 * 60:
        hours = round(minutes / 60)
        return (
            f"{hours // 24:,} days {hours % 24:02d} h" if hours < 2 * 365 * 24 else f"{hours / (365 * 24):,.0f} years"
        )
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def bytes_text(count: int) -> str:
    """ "512 B", "38 MB", "1.2 GB"."""
    amount, unit = float(max(0, count)), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
