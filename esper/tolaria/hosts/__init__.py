"""Small hosts for the built-in tasks; each names the places where seeds can grow."""
