"""A store on its way from one shard to another: docs/decisions/0014-moves.md has the design and its proofs."""
