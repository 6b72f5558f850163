"""The first results of the README: two tables, and a picture.

Run it with ``pip install -e '.[bench]'`` and ``python benchmarks``, on Linux; it takes some fifteen
minutes, of which the machine should do nothing else. It runs ``cost_per_event.py`` and
``scale.py``, prints what they print, then the tables, and draws ``docs/costs.svg``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from contestants import (
    ANTHROPIC,
    COLLECT,
    FLOOR,
    ITERATE,
    OPENAI,
    SDK,
    SDK_SYNC,
    SHARE,
    TEXT,
)
from cost_per_event import RATE
from scale import BARE, BURST, OURS

Costs: TypeAlias = dict[str, dict[str, dict[str, dict[str, float]]]]
"""As ``cost_per_event.py`` writes them."""
Scale: TypeAlias = dict[str, dict[str, dict[str, float]]]
"""As ``scale.py`` writes them: by number of streams, what was measured, and contestant."""

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "costs.svg"
COLUMNS = [
    ("burst", "asyncio"),
    ("burst", "uvloop"),
    ("each", "asyncio"),
    ("paced", "asyncio"),
    ("paced", "uvloop"),
]
DRAWN = {
    FLOOR: "floor: aiohttp, split, validate",
    ITERATE: "rxcohere, async for",
    TEXT: "rxcohere, text()",
    SHARE: "rxcohere, ten subscribers",
    ANTHROPIC: "anthropic, its own wire",
    SDK: "cohere SDK, async for",
    SDK_SYNC: "cohere SDK, for, in threads",
    OPENAI: "openai, its own wire",
}


def run(script: str, *arguments: str) -> Any:
    """What the script writes as JSON; what it prints is printed."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.json")
        command = [sys.executable, str(HERE / script), *arguments, "--json", str(results)]
        subprocess.run(command, check=True)
        return json.loads(results.read_text("utf-8"))


def machine() -> str:
    """What it ran on, in a line."""
    processor = platform.processor() or platform.machine()
    told = Path("/proc/cpuinfo")
    for line in told.read_text().splitlines() if told.exists() else ():
        if line.startswith("model name"):
            processor = line.partition(": ")[2]
            break
    versions: list[str] = []
    for package in ("aiohttp", "pydantic", "reactivex", "uvloop", "cohere", "openai", "anthropic"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = f"{os.cpu_count()} cores"
    return f"{processor}, {cores}, {python}, {', '.join(versions)}; {datetime.now(UTC):%Y-%m-%d}"


def print_row(name: str, cells: Iterable[str]) -> None:
    print(f"| {name} | {' | '.join(cells)} |")


def print_costs(costs: Costs) -> None:
    """Prints the first table of the README: µs an event, and how many times the floor."""
    columns = [(shape, loop) for shape, loop in COLUMNS if loop in costs.get(shape, {})]
    print_row("µs an event (times the floor)", (f"{shape}, {loop}" for shape, loop in columns))
    print_row("---", ["---:"] * len(columns))
    for name in (FLOOR, ITERATE, TEXT, COLLECT, SHARE, SDK, SDK_SYNC, OPENAI, ANTHROPIC):
        cells: list[str] = []
        for shape, loop in columns:
            of = costs[shape][loop].get(name)
            cells.append("" if of is None else f"{figure(of['µs'])} ({of['times the floor']:.2f})")
        print_row(name, cells)


def figure(value: float) -> str:
    """It, to two digits and those before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def print_scale(scale: Scale) -> None:
    """Prints the second table of the README: ours, beside bare aiohttp."""

    def row(name: str, key: str, tables: Iterable[dict[str, dict[str, float]]]) -> None:
        print_row(
            name, (f"{figure(of[key][OURS])} (bare {figure(of[key][BARE])})" for of in tables)
        )

    crowds = {int(streams): of for streams, of in scale.items() if int(streams)}
    print_row("streams at a time", (f"{streams:,}" for streams in crowds))
    print_row("---", ["---:"] * len(crowds))
    row("KiB an open stream", "memory", crowds.values())
    row("ms from the server's write to `on_next`, p50", "p50", crowds.values())
    row("the same, p99", "p99", crowds.values())
    row(f"µs of CPU an event, bursts of {BURST}", "cpu", crowds.values())
    print("\nOne stream after the other:\n")
    print_row("µs from `subscribe` to the first event, p50", ["kept connection", "new connection"])
    print_row("---", ["---:"] * 2)
    first = scale["0"]
    print_row(
        "rxcohere (bare aiohttp)",
        (f"{first[key][OURS]:,.0f} ({first[key][BARE]:,.0f})" for key in ("kept", "new")),
    )


def draw(costs: Costs, caption: str) -> None:
    """Draws µs an event in bursts; and how many streams fill a core, as the cost of 100 tells."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rxcohere", "font.size": 9})
    from matplotlib import pyplot as plt

    burst, paced = costs["burst"]["asyncio"], costs["paced"]["asyncio"]
    names = [name for name in DRAWN if name in burst and name in paced]
    labels = [DRAWN[name] for name in names]
    colours = [
        "#9aa0a6" if n == FLOOR else "#39594d" if "rxcohere" in n else "#d18ee2" for n in names
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    panels = [
        ([burst[name]["µs"] for name in names], "µs of CPU an event, in bursts (log)", "{:.3g}"),
        (
            [1e6 / paced[name]["µs"] / RATE for name in names],
            f"streams of {RATE} tokens a second that fill a core",
            "{:,.0f}",
        ),
    ]
    for axis, (values, title, form) in zip(axes, panels, strict=True):
        bars = axis.barh(labels, values, color=colours)
        axis.bar_label(bars, [form.format(value) for value in values], padding=3)
        axis.set_title(title, loc="left", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    axes[0].set_xscale("log")
    axes[0].invert_yaxis()
    figure.supxlabel(caption, fontsize=6, color="#5f6368")  # pyright: ignore[reportUnknownMemberType]
    PICTURE.parent.mkdir(exist_ok=True)
    told = {"Date": None, "Title": "What an event costs"}
    figure.savefig(PICTURE, metadata=told)  # pyright: ignore[reportUnknownMemberType]
    print(f"\n{PICTURE} is drawn")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--results", type=Path, help="where they are written; drawn anew if they are there already"
    )
    options = parser.parse_args()
    found: dict[str, Any]
    if options.results is not None and options.results.exists():
        found = json.loads(options.results.read_text("utf-8"))
    else:
        found = {"machine": machine(), "costs": run("cost_per_event.py"), "scale": run("scale.py")}
        if options.results is not None:
            text = json.dumps(found, indent=1, ensure_ascii=False)
            options.results.write_text(text, encoding="utf-8")
    print(f"\n{found['machine']}\n")
    print_costs(found["costs"])
    print()
    print_scale(found["scale"])
    draw(found["costs"], found["machine"])


if __name__ == "__main__":
    main()
