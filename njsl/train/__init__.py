"""train.py: corpora -> tokens -> pretraining -> export -> evaluation."""
