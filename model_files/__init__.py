"""Saved policies that ship with the package (none in this version)."""
