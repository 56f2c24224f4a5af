"""Selection: from scores, or by descent, to a circuit."""
