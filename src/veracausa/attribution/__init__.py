"""Exact effects, estimates of them, and the scores that hold both."""
