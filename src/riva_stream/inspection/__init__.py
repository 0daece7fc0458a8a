"""What stands in a bucket: found, read, compared, and what dead runs left there. Stages nothing."""
