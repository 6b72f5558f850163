"""A comparison: contestants that take turns, for several rounds, and the table of their medians.

The ratio of two contestants is the median over the rounds of the ratios within a round, because
what slows the machine down for a while slows both down.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

Values: TypeAlias = dict[str, float]
"""What one run measured, by name."""
Runs: TypeAlias = dict[tuple[str, int], Callable[[], Values]]
"""By contestant and column: what measures it."""
Costs: TypeAlias = dict[tuple[str, str, int], list[float]]
"""By what was measured, contestant and column: one value a round."""


def in_turns(rounds: int, runs: Runs) -> Costs:
    costs: Costs = defaultdict(list)
    for _ in range(rounds):
        for (who, column), run in runs.items():
            for what, value in run().items():
                costs[what, who, column].append(value)
    return costs


def median_ratio(values: Iterable[float], compared_with: Iterable[float]) -> float:
    """The median over the rounds of how many times what it is compared with each one is."""
    return statistics.median(a / b for a, b in zip(values, compared_with, strict=True))


def cell(values: Sequence[float], compared_with: Sequence[float] | None) -> str:
    median = float(statistics.median(values))
    text = f"{median:,.0f}" if median >= 100 or median.is_integer() else f"{median:.2f}"
    if compared_with is None:
        return text
    ratio = median_ratio(values, compared_with)
    return f"{text} (x{ratio:,.0f})" if ratio >= 100 else f"{text} (x{ratio:.2g})"


def print_line(first: str, cells: Iterable[str], width: int, cell_width: int) -> None:
    """Prints one line of a table; the widths are in characters."""
    print(f"  {first:{width}}" + "".join(f"{each:>{cell_width}}" for each in cells), flush=True)


def print_costs(costs: Costs, compared_with: str, column: int | None = None) -> None:
    """Prints a block for each thing that was measured.

    Args:
        costs: what was measured.
        compared_with: the contestant that all are compared with.
        column: the column of it that they are compared with; by default each with its own.
    """
    columns = sorted({key[2] for key in costs})
    for measured in dict.fromkeys(key[0] for key in costs):
        print_line(measured, (f"{each:,}" for each in columns), 34, 21)
        for contestant in dict.fromkeys(key[1] for key in costs):
            cells: list[str] = []
            for each in columns:
                values = costs.get((measured, contestant, each))
                reference = costs.get((measured, compared_with, each if column is None else column))
                cells.append("" if values is None else cell(values, reference))
            print_line(f"  {contestant}", cells, 34, 21)
