"""The modules of the blueprints, by family: the function of a blueprint's name makes its module."""
