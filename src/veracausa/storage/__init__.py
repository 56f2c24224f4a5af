"""What lies on disk: written whole or not at all, checked when it is read; it knows no result."""
