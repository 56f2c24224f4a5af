"""Exact effects: what happens to the metric when parts of the model are replaced, by running it."""
