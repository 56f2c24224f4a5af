"""Receipts: an estimate checked against exact effects of a sample."""
