"""Faults against real brokers. Every test proves that its fault happened."""
