"""What lives in the Redis-compatible server and may vanish: carts, positions, limits."""
