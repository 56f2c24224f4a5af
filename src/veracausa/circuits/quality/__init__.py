"""Quality: how well a circuit does the task, and tests of it."""
