"""The esper command."""
