-- The roles of one PostgreSQL cluster. For psql, as administrator, on a primary; running it again only sets the passwords.
-- Passwords come from the environment (APP_PASSWORD, REPLICATION_PASSWORD), so that they stand in no command line.
\set ON_ERROR_STOP on
\getenv app_password APP_PASSWORD
\getenv replication_password REPLICATION_PASSWORD

-- Otherwise the passwords would be there to read in pg_stat_statements.
SET pg_stat_statements.track_utility = off;
-- A primary that is being set up has no replica yet that could confirm a commit.
SET synchronous_commit = local;

-- app is the service: rows only, no schema. pg_monitor lets it read replication positions and lag.
SELECT 'CREATE ROLE app LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') \gexec
SELECT 'CREATE ROLE replication LOGIN REPLICATION' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'replication') \gexec
ALTER ROLE app PASSWORD :'app_password';
ALTER ROLE replication PASSWORD :'replication_password';
GRANT pg_monitor TO app;
