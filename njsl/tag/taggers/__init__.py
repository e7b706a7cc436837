"""Taggers, one per file: see njsl.tag.base."""
