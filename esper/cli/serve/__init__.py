"""`esper serve`: mission control, one page that shows runs as they are and as they were, and lets a person act."""
