"""Measurements that go beyond one target and one set of prompts."""
