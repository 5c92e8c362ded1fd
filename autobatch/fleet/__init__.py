"""Every kind of node of a cluster, measured once and compared."""
