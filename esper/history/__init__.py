"""What a run's events add up to: a pure fold that knows no clock, no network and no torch."""
