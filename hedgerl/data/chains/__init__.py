"""Vendors' option chains and ticks in one shape: `import_files` writes a store, `Store` reads it."""

from __future__ import annotations

from hedgerl.data.chains.checking import Finding, check
from hedgerl.data.chains.formats import FORMATS
from hedgerl.data.chains.importing import Report, import_files
from hedgerl.data.chains.store import Store

__all__ = ["FORMATS", "Finding", "Report", "Store", "check", "import_files"]
