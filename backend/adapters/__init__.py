"""Versions of the model that were learned on a project's work: where they lie, and which of them answers whom."""
