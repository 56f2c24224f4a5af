"""Studies: many questions about one task in one call, compared with each other."""
