"""Estimates of effects: paths × backward rules × combinations, and learned masks; not what they are worth."""
