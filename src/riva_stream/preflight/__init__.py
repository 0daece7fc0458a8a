"""Whether a run would succeed: the host, the stores, the rights; nothing is left behind."""
