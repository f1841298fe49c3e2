//! Who acts: reading the session's roles, and raising to the owner of our tables for one statement.
//!
//! `as_owner` is only called by `pg::spi`, around one static, qualified statement, by `pg::function`, around
//! one look-up in the catalog, and by `pg::grant`, around one GRANT; all under a pinned search_path. It is lowered again before anything
//! else runs; on an error the abort of the transaction or subtransaction restores the user id (xact.c,
//! AbortTransaction and AbortSubTransaction) and the settings (AtEOXact_GUC), so that a caught error finds
//! the caller's own identity too.

use pgrx::pg_sys;

use super::guc::Nest;

/// A role's oid; zero is none.
pub type Role = u32;

/// An oid as SQL's type.
pub use pg_sys::Oid;

/// A role's oid as SQL's type.
pub fn oid_value(role: Role) -> Oid {
    Oid::from(role)
}

/// The role that the running code acts as.
pub fn current() -> Role {
    // SAFETY: reads a static of miscinit.c.
    unsafe { pg_sys::GetUserId() }.to_u32()
}

/// The role that the session belongs to: the one that logged in. Not GetSessionUserId, which SET SESSION
/// AUTHORIZATION changes, and any code that runs in the session changes back.
pub fn session() -> Role {
    // SAFETY: reads a static of miscinit.c.
    unsafe { pg_sys::GetAuthenticatedUserId() }.to_u32()
}

/// Is the role a superuser?
pub fn is_superuser(role: Role) -> bool {
    // SAFETY: a catalog look-up inside a transaction; unknown roles are no superusers.
    unsafe { pg_sys::superuser_arg(pg_sys::Oid::from(role)) }
}

/// Does the role have all rights here: as a superuser, or with the rights of the extension's owner?
pub fn is_owner(role: Role) -> bool {
    // SAFETY: catalog look-ups inside a transaction; acl.c keeps the last role's memberships.
    is_superuser(role)
        || owner().is_some_and(|owner| unsafe { pg_sys::has_privs_of_role(pg_sys::Oid::from(role), owner) })
}

/// The oid of the role of this name, in the database's encoding.
pub fn oid(name: &std::ffi::CStr) -> Option<Role> {
    // SAFETY: a catalog look-up inside a transaction.
    let oid = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then(|| oid.to_u32())
}

/// The role's name, if it exists.
pub fn name(role: Role) -> Option<String> {
    // SAFETY: GetUserNameFromId(noerr = true) returns a palloc'd C string or null.
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::Oid::from(role), true);
        (!name.is_null()).then(|| super::encoding::from_server_c(std::ffi::CStr::from_ptr(name)))
    }
}

/// Runs `statement` as the owner of our schema, not of a table, which somebody may have given away (pg::tamper); under `search_path = pg_catalog, pg_temp`.
/// `None` when the table does not exist.
pub(super) fn as_owner<T>(statement: impl FnOnce() -> T) -> Option<T> {
    let owner = owner()?;
    let nest = Nest::open();
    nest.set(c"search_path", c"pg_catalog, pg_temp");
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: as ri_triggers.c does it: save, raise with SECURITY_LOCAL_USERID_CHANGE, run, restore.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | i32::try_from(pg_sys::SECURITY_LOCAL_USERID_CHANGE).unwrap_or(1),
        );
    }
    let result = statement();
    // SAFETY: the values read above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    nest.close();
    Some(result)
}

/// Runs `work` as `role`, in a way that lasts for nothing else: as maintenance commands run other people's functions
/// (index.c), without SET ROLE, deferred triggers, held cursors or temporary tables. On an error as `as_owner`.
pub(super) fn restricted_to<T>(role: Role, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    let bits = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
    // SAFETY: save, change, run, restore; SET ROLE and its like are refused meanwhile.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(pg_sys::Oid::from(role), context | i32::try_from(bits).unwrap_or(3));
    }
    let result = work();
    // SAFETY: the values read above.
    unsafe { pg_sys::SetUserIdAndSecContext(user, context) };
    result
}

/// The owner of our schema, who is the extension's; `None` where our tables are not.
pub(super) fn owner() -> Option<pg_sys::Oid> {
    // SAFETY: syscache look-ups inside a transaction; the tuple is released after the copy of the field.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgq".as_ptr(), true);
        if schema == pg_sys::InvalidOid || pg_sys::get_relname_relid(c"job".as_ptr(), schema) == pg_sys::InvalidOid {
            return None;
        }
        let cache = i32::try_from(pg_sys::SysCacheIdentifier::NAMESPACEOID).unwrap_or(0);
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(schema));
        if tuple.is_null() {
            return None;
        }
        let form: *const pg_sys::FormData_pg_namespace = pg_sys::GETSTRUCT(tuple).cast();
        let owner = (*form).nspowner;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}
