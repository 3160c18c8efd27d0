"""Weatherlight: starts, watches and stops the processes."""
