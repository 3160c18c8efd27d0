"""Tezzeret: blueprints become kernels, each made once, in a child of its own that its limits really hold."""
