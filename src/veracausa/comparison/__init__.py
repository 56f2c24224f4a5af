"""Compare estimates with exact effects: agreement figures, and the study that puts everything together."""
