"""Esper: neural networks that grow while they train, on an immutable log of everything that happened."""

__version__ = "0.1.0"
