"""Rankings of edges beside each other on one scoreboard."""
