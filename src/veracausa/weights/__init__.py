"""Components of weights: parts of linear maps, as dictionaries of linear features."""
