"""One suite for the S3 port, run against every store that installs here."""
