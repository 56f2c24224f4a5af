"""Discovery: from a task to a circuit that is judged on other pairs, every step kept."""
