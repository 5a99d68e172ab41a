"""The benchmark's report: `report.md` and one `report.html`, made from `summary.json`."""

from bench.report.write import write_report

__all__ = ["write_report"]
