"""Units: names of parts of a model, and tables of them; nothing is run here."""
