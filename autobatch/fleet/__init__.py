"""A comparison of all kinds of nodes of a cluster, each measured once."""
