-- One database and what the role app may do in it. For psql, as administrator, on a primary, after roles.sql;
-- the name comes from the environment (DATABASE). Running it again changes nothing.
\set ON_ERROR_STOP on
\getenv database DATABASE

SET synchronous_commit = local;
SELECT format('CREATE DATABASE %I', :'database') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"database" TO app;

\connect :"database"
SET synchronous_commit = local;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;
GRANT USAGE ON SCHEMA public TO app;
-- Migrations run as the administrator: whatever they make, the service may use, and no migration has to say so.
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON ROUTINES TO app;
