"""Regressions on the database of models: what explains performance, and how sure that is."""
