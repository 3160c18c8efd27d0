"""Urza: the library of compiled blueprints. What is stored is never changed; what is served is checked every time."""
