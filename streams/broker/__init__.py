"""The embedded log: a durable Kafka-protocol server for one machine, bound to loopback (README.md beside this file)."""
