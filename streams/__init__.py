"""Oona: topics, producers and consumers, the Faust agents, the embedded broker and the feed for training jobs."""
