"""Charts: every picture, as Altair or SVG."""

from veracausa.extras import require_extra

require_extra("charts")
