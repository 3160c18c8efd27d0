"""Nissa: metrics and alerts, folded from events.

`catalogue` names every metric that Esper emits, `measure` makes measurements of an event, and `alerts` folds
measurements into alerts that fire once and clear. All of it is pure: times come with the record.
"""
