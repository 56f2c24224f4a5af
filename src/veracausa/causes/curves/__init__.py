"""Responses: the metric along the way of one or two units from their value to its replacement."""
