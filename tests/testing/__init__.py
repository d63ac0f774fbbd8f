"""Tests of the test kit, one file for each of its files."""
