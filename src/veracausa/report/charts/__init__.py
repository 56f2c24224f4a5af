"""Charts: every picture, as Altair or SVG."""
