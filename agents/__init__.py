"""Learning agents (empty in this version)."""
