"""Metrics: retrieval recall, answers, captions, embedding spaces, bootstrap intervals."""
