"""Whole arrays of requests, and questions about whole machines, with NumPy."""
