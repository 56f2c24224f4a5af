"""Chapters: one further question's part of a page, by the type of its result."""
