"""The version of the library, which every file that it writes bears."""

__version__ = "0.1.0"
