"""Measure corpora and model generations: every chosen tagger in one pass."""
