"""The fault bench: broker processes of our own, and what is done to them. Tests of every adapter use it."""
