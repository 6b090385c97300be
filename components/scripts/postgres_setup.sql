-- One role and one database of its own, with the present password. It may run any number of times.
\set ON_ERROR_STOP on
\set VERBOSITY terse
\set QUIET on
\getenv owner APP_USER
\getenv database APP_DATABASE
\getenv password APP_PASSWORD

-- A statement that fails is logged with its text, and this text has a password in it.
SET log_min_error_statement = 'panic';
SET log_statement = 'none';
SET log_min_duration_statement = -1;

SELECT format('CREATE ROLE %I', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner')
\gexec

ALTER ROLE :"owner"
    LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';

SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

-- Whoever gets a role may connect to every database unless that is said.
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
\echo 'role and database are there'
