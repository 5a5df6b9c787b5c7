"""Async-first SDK for IBM Quantum sessions."""
