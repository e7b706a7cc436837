"""Models: a Llama in pure torch, its attention backends, and the way to and from transformers."""
