"""Circuits: sets of edges, how they are found, and how well they explain a behaviour."""
