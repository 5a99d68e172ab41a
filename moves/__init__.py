"""A store on its way from one shard to another: docs/decisions/0016-moves.md has the design and its proofs."""
