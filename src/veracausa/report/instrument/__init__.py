"""The page's first screen and its linked selection: three findings in plain words, and a panel for every unit."""
