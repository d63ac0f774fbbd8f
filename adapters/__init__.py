"""Adapters: one package per broker, each meeting the contract in `runtime.adapter`. Importing this imports no client."""
