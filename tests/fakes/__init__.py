"""Fakes that implement the production Protocols, and small things that many tests need."""
