"""Karn: the catalogue of blueprints that a seed can become."""
