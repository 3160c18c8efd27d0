"""Simic: learns Tamiyo's policy from what is on the log. Room by room in the README beside this file."""
