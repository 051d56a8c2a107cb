"""Protocols that measure embeddings: verification of pairs, feature files for identification; metrics and plots."""
