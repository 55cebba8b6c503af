"""Tests of the replication engine, without a network."""
