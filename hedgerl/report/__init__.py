"""Reports of studies: a page to read, tables for programs, and the lines that the command line prints."""

from __future__ import annotations

from hedgerl.report.text import fold_table, table
from hedgerl.report.write import write_report

__all__ = ["fold_table", "table", "write_report"]
