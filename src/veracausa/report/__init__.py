"""Charts and one offline HTML page, drawn from scores and studies; no numbers of their own."""
