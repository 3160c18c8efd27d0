"""One module per template. A new file here with a `BLUEPRINT` in it is a new template; nothing else needs to change."""
