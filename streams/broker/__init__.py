"""The embedded log: a Kafka-protocol broker on loopback, a process of its own."""
