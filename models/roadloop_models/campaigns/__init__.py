"""Campaigns: which moments are worth sending, decided by the same code on the vehicle and in a back-test."""
