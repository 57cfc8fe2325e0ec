"""Policies and scorers: dict pytrees of parameters and pure functions."""
