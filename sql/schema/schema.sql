-- As CREATE EXTENSION itself sets it: nothing here can mean an object in anybody's schema.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- The schema, and the refusal to share it with the older PgQ.
DO $$
BEGIN
    IF pg_catalog.to_regnamespace('pgq') IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'duplicate_schema',
            MESSAGE = 'schema "pgq" exists already',
            DETAIL = CASE WHEN pg_catalog.to_regproc('pgq.create_queue') IS NOT NULL
                          THEN 'It belongs to the older PgQ, an event queue of the same name. The two cannot live in one database.'
                          ELSE 'This extension needs the schema for itself.' END,
            HINT = 'Use another database, or remove what is there: DROP SCHEMA pgq.';
    END IF;
END
$$;

CREATE SCHEMA pgq;
