"""Sheaves: weights and edges of a model that do a behaviour alone."""
