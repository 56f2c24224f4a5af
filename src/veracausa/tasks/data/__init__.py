"""Word lists of the built-in tasks: plain facts and sentences, in Python so that comments can say why."""
