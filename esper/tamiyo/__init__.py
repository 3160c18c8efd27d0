"""Tamiyo: what to grow, where and when, as a pure function of an observation."""
