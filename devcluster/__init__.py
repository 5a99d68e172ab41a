"""The embedded cluster: real PostgreSQL and Valkey servers from installed packages, on loopback, as one unit.

`python -m devcluster up` (what `make up` runs) supervises it in the foreground; tests start one with
`devcluster.cluster.Cluster`. The application never imports this package: it reads `$VAR/settings.json`.

From the bottom: `errors`, `topology` (which servers there are), `account` (who they run as), `layout` (where
their files lie), `removal` (what may be deleted), `programs` (what is run), `processes` (starting and stopping
it), `lineage` (which server is primary), `slots`, `postgres` and `valkey` (one server each), `standing` and `rejoin`
(who was failed over, and its way back), `bootstrap` (roles, databases, migrations), `cluster` (all of it together),
`watch` (who has to come back now), `demo`, `supervisor` and `control` (the command line).
"""
