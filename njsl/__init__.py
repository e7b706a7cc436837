"""njsl: which design decisions make a language model good at what, beyond its size and its tokens."""
