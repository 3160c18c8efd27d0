"""Nissa: metrics and alerts, folded from events."""
