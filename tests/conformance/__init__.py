"""Every adapter of the house passes the conformance suite, and the suite catches those that should not."""
