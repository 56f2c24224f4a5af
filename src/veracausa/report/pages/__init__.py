"""Pages: whole offline HTML files, of a study and of a discovery."""

from veracausa.extras import require_extra

require_extra("charts")
