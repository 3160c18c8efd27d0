"""Tamiyo: decides where and when a network grows, purely from what the trainer reports. No torch, no clock."""
