"""Tests of the test kit, `runtime.testing`: one file for each of its files."""
