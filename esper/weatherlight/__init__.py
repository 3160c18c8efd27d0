"""Weatherlight: one supervisor process per data folder that starts, watches and stops all the others."""

from esper.installation import PACKAGES, check_packages

check_packages(*PACKAGES)
