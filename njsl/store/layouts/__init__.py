"""Result files of evaluation harnesses, by their layout; ``njsl.store.evals`` tells which is which."""
