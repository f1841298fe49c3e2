//! Everything that the extension put into a database's catalog, as text: what a fresh installation and an upgraded one
//! have in common, which is all of it.

use postgres::Client;

/// Names instead of oids, so that two databases can be compared; columns and what is dumped in their order.
const OBJECTS: &str = "
WITH member AS (
    SELECT d.classid, d.objid FROM pg_depend AS d
     WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pgq')),
ours AS (
    SELECT c.* FROM pg_class AS c WHERE c.relnamespace = 'pgq'::regnamespace),
sub (classid, objid, objsubid) AS (
    SELECT classid, objid, 0 FROM member
    UNION ALL SELECT 'pg_class'::regclass, a.attrelid, a.attnum
                FROM pg_attribute AS a JOIN ours AS o ON o.oid = a.attrelid WHERE a.attnum > 0
    UNION ALL SELECT 'pg_class'::regclass, i.indexrelid, 0 FROM pg_index AS i JOIN ours AS o ON o.oid = i.indrelid
    UNION ALL SELECT 'pg_constraint'::regclass, c.oid, 0
                FROM pg_constraint AS c JOIN ours AS o ON o.oid = c.conrelid)
SELECT 'object ' || pg_describe_object(classid, objid, 0) FROM member
UNION ALL
SELECT format('relation %s: %s, persistence %s, owner %s, options %s, acl %s, initial acl %s', o.oid::regclass,
              o.relkind, o.relpersistence, o.relowner::regrole, o.reloptions, pg_temp.acl(o.relacl), pg_temp.initial('pg_class', o.oid))
  FROM ours AS o
UNION ALL
SELECT format('column %s %s %s: %s, not null %s, identity %L, generated %L, default %s, collation %s, storage %s, acl %s',
              a.attrelid::regclass, row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), a.attname,
              format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
              pg_get_expr(d.adbin, d.adrelid), a.attcollation::regcollation, a.attstorage, pg_temp.acl(a.attacl))
  FROM pg_attribute AS a JOIN ours AS o ON o.oid = a.attrelid
  LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('constraint %s on %s: %s, validated %s', c.conname, c.conrelid::regclass, pg_get_constraintdef(c.oid),
              c.convalidated)
  FROM pg_constraint AS c JOIN ours AS o ON o.oid = c.conrelid
UNION ALL
SELECT format('index %s, valid %s', pg_get_indexdef(i.indexrelid), i.indisvalid)
  FROM pg_index AS i JOIN ours AS o ON o.oid = i.indrelid
UNION ALL
SELECT format('view %s: %s', o.oid::regclass, pg_get_viewdef(o.oid)) FROM ours AS o WHERE o.relkind = 'v'
UNION ALL
SELECT format('sequence %s: %s', s.seqrelid::regclass, to_jsonb(s) - 'seqrelid')
  FROM pg_sequence AS s JOIN ours AS o ON o.oid = s.seqrelid
UNION ALL
SELECT format('function: %s owner %s, acl %s, initial acl %s', pg_get_functiondef(p.oid), p.proowner::regrole,
              pg_temp.acl(p.proacl), pg_temp.initial('pg_proc', p.oid))
  FROM pg_proc AS p JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
UNION ALL
SELECT format('type %s: owner %s, acl %s, initial acl %s', t.oid::regtype, t.typowner::regrole, pg_temp.acl(t.typacl),
              pg_temp.initial('pg_type', t.oid))
  FROM pg_type AS t WHERE t.typnamespace = 'pgq'::regnamespace
UNION ALL
SELECT format('schema %s: owner %s, acl %s', n.nspname, n.nspowner::regrole, pg_temp.acl(n.nspacl))
  FROM pg_namespace AS n WHERE n.nspname = 'pgq'
UNION ALL
SELECT format('comment on %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
  FROM pg_description AS d JOIN sub AS s ON (s.classid, s.objid, s.objsubid) = (d.classoid, d.objoid, d.objsubid)
UNION ALL
SELECT format('dumped: %s WHERE %L', e.extconfig[n]::regclass, e.extcondition[n])
  FROM pg_extension AS e, generate_subscripts(e.extconfig, 1) AS n WHERE e.extname = 'pgq'
UNION ALL
SELECT format('extension %s, schema %s, relocatable %s, owner %s', e.extversion, e.extnamespace::regnamespace,
              e.extrelocatable, e.extowner::regrole)
  FROM pg_extension AS e WHERE e.extname = 'pgq'
ORDER BY 1";

/// Access lists in one order, and with the right names whoever was granted first.
const WORDS: &str = "
CREATE OR REPLACE FUNCTION pg_temp.acl(list aclitem[]) RETURNS text LANGUAGE sql AS
    $$ SELECT string_agg(i::text, ' ' ORDER BY i::text) FROM unnest(list) AS i $$;
CREATE OR REPLACE FUNCTION pg_temp.initial(class regclass, object oid) RETURNS text LANGUAGE sql AS
    $$ SELECT pg_temp.acl(initprivs) FROM pg_init_privs WHERE (classoid, objoid, objsubid) = (class, object, 0) $$;";

/// One line for each thing that can be said of it.
///
/// # Panics
/// When the server refuses.
pub fn of(client: &mut Client) -> Vec<String> {
    client.batch_execute("SET search_path = pg_catalog, pg_temp").expect("a search_path");
    client.batch_execute(WORDS).expect("functions of this session");
    let rows = client.query(OBJECTS, &[]).unwrap_or_else(|error| panic!("{error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// The lines that only one side has.
pub fn difference(left: &[String], right: &[String]) -> Vec<String> {
    let missing = |from: &[String], lines: &[String], sign: char| {
        let lines = lines.iter().filter(|line| !from.contains(line));
        lines.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [missing(right, left, '-'), missing(left, right, '+')].concat()
}
