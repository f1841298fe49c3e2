-- Every object of the schema: whose it is, who else may do what with it, how it runs. Nobody else may do anything.
CREATE VIEW object AS
SELECT kind, name, owner::regrole = current_user::regrole AS own,
       (SELECT string_agg(CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
                          || ' ' || a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END, ', ')
          FROM aclexplode(coalesce(o.acl, acldefault(o.class, o.owner))) AS a WHERE a.grantee <> o.owner) AS others,
       more
  FROM (SELECT 'routine ' || p.prokind::text, p.oid::regprocedure::text, p.proowner, p.proacl, 'f'::"char",
               concat_ws(' ', l.lanname, p.provolatile::text, CASE WHEN p.prosecdef THEN 'SECURITY DEFINER' END,
                         CASE WHEN p.proleakproof THEN 'LEAKPROOF' END, p.proconfig::text)
          FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang WHERE p.pronamespace = 'pgq'::regnamespace
        UNION ALL
        SELECT 'relation ' || c.relkind::text, c.relname, c.relowner, c.relacl,
               CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END,
               CASE WHEN c.relkind = 'v' THEN c.reloptions::text
                    WHEN c.oid <> ALL (e.extconfig) THEN 'not dumped' END
          FROM pg_class AS c, pg_extension AS e
         WHERE c.relnamespace = 'pgq'::regnamespace AND c.relkind <> 'i' AND e.extname = 'pgq'
        UNION ALL
        SELECT 'type', t.typname, t.typowner, t.typacl, 'T'::"char", NULL
          FROM pg_type AS t WHERE t.typnamespace = 'pgq'::regnamespace AND t.typcategory <> 'A'
        UNION ALL
        SELECT 'schema', n.nspname, n.nspowner, n.nspacl, 'n'::"char", NULL FROM pg_namespace AS n WHERE n.nspname = 'pgq'
       ) AS o (kind, name, owner, acl, class, more);
\pset format unaligned
SELECT kind, name, own, others, more FROM object ORDER BY kind, name COLLATE "C";
-- Nothing of the extension is outside of its schema.
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
 WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgq')
   AND deptype = 'e' AND pg_describe_object(classid, objid, objsubid) !~ '\mpgq\M';
-- What each access gives; and a revoke takes all of it back.
CREATE TABLE before AS SELECT kind, name, others FROM object;
CREATE ROLE regress_guest;
\set gets 'SELECT split_part(name, \'(\', 1) AS name, others FROM object WHERE others ~ \'regress_guest\' ORDER BY kind, object.name COLLATE "C";'
\set left 'SELECT kind, name, others FROM object EXCEPT TABLE before;'
SELECT pgq.grant_usage('regress_guest', 'produce', 'mail');
:gets
SELECT pgq.revoke_usage('regress_guest', 'produce', 'mail');
:left
SELECT pgq.grant_usage('regress_guest', 'consume', 'mail');
:gets
SELECT pgq.revoke_usage('regress_guest', 'consume', 'mail');
:left
SELECT pgq.grant_usage('regress_guest', 'monitor', 'mail');
:gets
SELECT pgq.revoke_usage('regress_guest', 'monitor', 'mail');
:left
SELECT pgq.grant_usage('regress_guest', 'admin', 'mail');
:gets
-- The tables, and what no access reaches.
SELECT kind, name FROM object WHERE others IS NULL AND kind <> 'type' ORDER BY kind, name COLLATE "C";
SELECT pgq.revoke_usage('regress_guest', 'admin', 'mail');
:left
DROP ROLE regress_guest;
