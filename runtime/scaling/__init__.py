"""Several replicas of the HTTP server behind one address."""
