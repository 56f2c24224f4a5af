"""Dictionaries of features as the field publishes them, from files or tensors: every format's own traps are here."""
