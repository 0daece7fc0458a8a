"""Whether a run would succeed: host, stores and permissions are checked, and nothing is left behind."""
