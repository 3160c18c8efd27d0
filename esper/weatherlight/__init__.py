"""Weatherlight: one supervisor process per data folder that starts, watches and stops all the others."""
