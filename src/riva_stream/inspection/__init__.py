"""Stagings in a bucket: found, read and compared; and what dead runs left there. Stages nothing."""
