"""Corpora: text from files, from the Hugging Face hub, and from the Python environment at hand."""
