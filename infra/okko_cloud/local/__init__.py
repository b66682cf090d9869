"""The whole loop on one machine: a real S3 on loopback, a queue, and a worker; no account, no keys, no network."""
