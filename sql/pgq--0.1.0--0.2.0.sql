-- 0.1.0 → 0.2.0: copies do not run by themselves.
--
-- New: pgq.armed_handler, which says in which database a handler may run, and pgq.arm(). Handlers that are there run on.
-- Registrations and grants wait until the end, which takes milliseconds; jobs are put and run meanwhile.
SET LOCAL search_path TO pg_catalog, pg_temp;

-- What is under way is waited for, and then seen by the statements below: each takes a snapshot of its own.
DO $$
BEGIN
    IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'extension pgq is upgraded in a transaction of isolation level READ COMMITTED',
            HINT = 'SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED; then type it again.';
    END IF;
END
$$;
LOCK TABLE pgq.handler, pgq.queue_grant IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE pgq.armed_handler (
    handler       integer NOT NULL,
    registered_at timestamptz NOT NULL,
    database      oid NOT NULL,
    CONSTRAINT armed_handler_pkey PRIMARY KEY (handler)
);

CREATE FUNCTION pgq.arm()
RETURNS boolean LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'arm_wrapper';

-- They belong to whoever types the upgrade, but everything of pgq must belong to who created the extension.
DO $$
DECLARE
    owner name;
BEGIN
    SELECT r.rolname INTO STRICT owner
      FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) e.extowner
     WHERE e.extname OPERATOR(pg_catalog.=) 'pgq';
    EXECUTE pg_catalog.format('ALTER TABLE pgq.armed_handler OWNER TO %I', owner);
    EXECUTE pg_catalog.format('ALTER FUNCTION pgq.arm() OWNER TO %I', owner);
END
$$;

INSERT INTO pgq.armed_handler (handler, registered_at, database)
SELECT h.id, h.registered_at, d.oid
  FROM pgq.handler AS h, pg_catalog.pg_database AS d
 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();

COMMENT ON TABLE pgq.armed_handler IS 'Handlers that may run: registered in this database, or armed in it. Not dumped, so that the handlers of a restored copy are held until pgq.arm. Written by register, unregister and arm.';
COMMENT ON COLUMN pgq.armed_handler.handler IS 'Id of the handler.';
COMMENT ON COLUMN pgq.armed_handler.registered_at IS 'Its registration: a later one is another handler.';
COMMENT ON COLUMN pgq.armed_handler.database IS 'Oid of the database in which it may run. One that was made from a template has another.';
COMMENT ON CONSTRAINT armed_handler_pkey ON pgq.armed_handler IS 'One row for each handler.';
COMMENT ON INDEX pgq.armed_handler_pkey IS 'Serves register, unregister and arm, and every look at handlers.';

COMMENT ON FUNCTION pgq.arm() IS
$$Lets the handlers of a copy run: of a database that was restored from a dump or made from a template. Roles are taken by their names, where the caller may act as them.
Returns false when no handler was held.
Example: SELECT pgq.arm();$$;

REVOKE ALL ON TABLE pgq.armed_handler FROM PUBLIC;
REVOKE ALL ON TYPE pgq.armed_handler FROM PUBLIC;
REVOKE ALL ON FUNCTION pgq.arm() FROM PUBLIC;

-- What grant_usage gives along with "admin".
DO $$
DECLARE
    admin name;
BEGIN
    FOR admin IN
        SELECT DISTINCT r.rolname
          FROM pgq.queue_grant AS g
          JOIN pg_catalog.pg_roles AS r
            ON r.oid OPERATOR(pg_catalog.=) g.role_oid AND r.rolname OPERATOR(pg_catalog.=) g.role
         WHERE g.access OPERATOR(pg_catalog.=) 'admin'
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION pgq.arm() TO %I', admin);
    END LOOP;
END
$$;
