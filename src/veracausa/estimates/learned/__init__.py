"""Learned masks: an estimate by descent over gates."""
