"""Exchange: circuits in our own files and in those of other tools."""
