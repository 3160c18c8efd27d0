"""The Leyline proto package."""
