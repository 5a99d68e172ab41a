"""`python -m bench.report FOLDER`: writes report.md and report.html beside the folder's summary.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.report.summary import SummaryError
from bench.report.write import write_report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="where summary.json lies, such as bench/results/latest")
    try:
        for written in write_report(parser.parse_args().folder):
            print(written)
    except SummaryError as error:
        raise SystemExit(f"bench.report: {error}") from error


if __name__ == "__main__":
    main()
