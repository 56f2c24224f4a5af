"""Loading: from an id, a folder or a file to a `Model`."""
