"""Tolaria: the training loop, its hosts and tasks, checkpoints and rollback."""
