"""Runs of circuits: many circuits at once on the same prompts, under every ablation."""
