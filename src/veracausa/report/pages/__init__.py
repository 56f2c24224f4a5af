"""Pages: whole offline HTML files, of a study and of a discovery."""
