"""Write ssl_bench/plan/spreads.csv from the published runs: how much rows differ from seed to seed, for `plan`.

python benchmarks/spreads.py        # those of SOURCES that are there; tests/plan/test_resolution.py checks it
"""

from __future__ import annotations

from pathlib import Path

from ssl_bench.report import load
from ssl_bench.report.building.spreads import Spread, spreads_csv, spreads_of
from ssl_bench.report.ground.intervals import FEWEST_SEEDS

ROOT = Path(__file__).parent.parent
SOURCES = ("results/cifar10", "results/classic", "results/reference")  #: those that are there


def spreads_from(source: str) -> list[Spread]:
    """The spreads of one published run; none where it is not there or has too few seeds."""
    if not (ROOT / source / "run.json").exists():
        return []
    results = load(ROOT / source)
    return spreads_of(results, results.table(), source) if len(results.run.seeds) >= FEWEST_SEEDS else []


if __name__ == "__main__":
    text = spreads_csv(spread for source in SOURCES for spread in spreads_from(source))
    (ROOT / "ssl_bench" / "plan" / "spreads.csv").write_text(text, encoding="utf-8")
