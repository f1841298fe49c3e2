//! The install script on one screen: the files of sql/schema in their order.
//!
//! Functions are declared by hand in functions.sql (so are their defaults, comments and rights), and
//! `#[pg_extern(sql = false)]` only makes the symbols behind them.

use pgrx::extension_sql_file;

extension_sql_file!("../sql/schema/schema.sql", name = "schema", bootstrap);
extension_sql_file!("../sql/schema/tables.sql", name = "tables", requires = ["schema"]);
extension_sql_file!("../sql/schema/indexes.sql", name = "indexes", requires = ["tables"]);
extension_sql_file!("../sql/schema/functions.sql", name = "functions", requires = ["indexes"]);
extension_sql_file!("../sql/schema/views.sql", name = "views", requires = ["functions"]);
extension_sql_file!("../sql/schema/comments.sql", name = "comments", requires = ["views"]);
extension_sql_file!("../sql/schema/grants.sql", name = "grants", requires = ["comments"]);
