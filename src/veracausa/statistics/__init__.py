"""Statistics of plain arrays: means, ratios of means, intervals. It knows no models, tasks or units."""
