"""Run and re-run: record a pair, patch many rows, resume at the later blocks and positions, read the metric."""
