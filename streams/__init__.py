"""Oona, the log of Esper: topics, producers and consumers, the Faust agents, the embedded broker, the feed for jobs."""

from esper.installation import check_packages

check_packages("contracts", "esper", "projections")
