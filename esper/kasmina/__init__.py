"""Kasmina: seeds inside the host, their life, their gates and how they blend."""
