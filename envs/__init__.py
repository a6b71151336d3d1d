"""Hedging environments: book, observation, action and reward (empty in this version)."""
