"""What lives in the Redis-compatible server and may vanish: carts, remembered positions, cached answers, limits."""
