"""Why two methods disagree about a unit, and where in the model the reason lies."""
