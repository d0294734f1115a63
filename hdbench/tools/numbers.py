"""Numbers as reports print them."""

WIDTH = 118  # columns of a report


def number(value: float) -> str:
    """At most two decimals, none from 100: `0.25`, `1,234`, `<0.01`."""
    if value == 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
