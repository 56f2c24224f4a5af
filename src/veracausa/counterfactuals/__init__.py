"""Which counterfactual shows which component: search, corruptions, baselines, general-purpose units, head roles."""
