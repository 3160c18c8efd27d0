"""The commands of `esper`, their options and their help, one module for each question that a user has."""
