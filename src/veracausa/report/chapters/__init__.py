"""Chapters: one further question's part of a page, by the type of its result."""

from veracausa.extras import require_extra

require_extra("charts")
