//! GRANT and REVOKE on objects of our schema, and knowing when what was read about rights is out of date.
//!
//! Privileges are changed as the owner of our tables and not as text: ExecuteGrantStmt (aclchk.c) is what GRANT
//! comes down to. Called directly it runs neither event triggers nor the hooks of ProcessUtility, which would be
//! somebody else's code under the raised id.

use std::cell::Cell;
use std::ffi::{c_char, CString};

use pgrx::{pg_sys, PgBox};

use super::user::{self, Role};
use crate::error::{Error, Result};

/// What a privilege is on; the privilege is the one that makes such a thing usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// EXECUTE
    Function,
    /// SELECT
    View,
    /// USAGE
    Type,
    /// USAGE; the name is not looked at
    Schema,
}

thread_local! {
    /// Counts what may have changed anybody's rights.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// pgq.queue_grant as it was last looked up here.
    static TABLE: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Gives the role the privilege on an object of our schema, or takes it back.
pub fn change(give: bool, role: Role, kind: Kind, name: &str) -> Result<()> {
    change_with(give, false, role, kind, name)
}

/// The same; with `option` it may pass the privilege on.
pub fn change_with(give: bool, option: bool, role: Role, kind: Kind, name: &str) -> Result<()> {
    let name = CString::new(name).map_err(|_| Error::Internal("a name has a zero byte".into()))?;
    user::as_owner(|| {
        // SAFETY: the nodes that gram.y makes of GRANT … ON … TO …, in the current context, which outlives the call.
        // The role's name is looked up by its oid here and back to the oid there, with nothing in between.
        unsafe {
            let role_name = pg_sys::GetUserNameFromId(user::oid_value(role), false);
            let mut statement = PgBox::<pg_sys::GrantStmt>::alloc_node(pg_sys::NodeTag::T_GrantStmt);
            statement.is_grant = give;
            statement.grant_option = option;
            statement.targtype = pg_sys::GrantTargetType::ACL_TARGET_OBJECT;
            statement.behavior = pg_sys::DropBehavior::DROP_RESTRICT;
            statement.grantees = list_of(grantee(role_name));
            let (kind, privilege, object) = target(kind, pg_sys::pstrdup(name.as_ptr()));
            statement.objtype = kind;
            statement.privileges = list_of(privilege_named(privilege));
            statement.objects = list_of(object);
            pg_sys::ExecuteGrantStmt(statement.into_pg());
            pg_sys::CommandCounterIncrement();
        }
    })
    .ok_or_else(|| Error::Internal("the tables of extension pgq are missing".into()))
}

type Node = *mut std::ffi::c_void;

/// # Safety
/// `name` is a palloc'd string.
unsafe fn target(kind: Kind, name: *mut c_char) -> (pg_sys::ObjectType::Type, *const c_char, Node) {
    let schema = c"pgq".as_ptr().cast_mut();
    // SAFETY: nodes of palloc'd and static strings, which nothing writes to.
    unsafe {
        let qualified = pg_sys::lappend(list_of(pg_sys::makeString(schema).cast()), pg_sys::makeString(name).cast());
        match kind {
            Kind::Function => {
                let mut function = PgBox::<pg_sys::ObjectWithArgs>::alloc_node(pg_sys::NodeTag::T_ObjectWithArgs);
                function.objname = qualified;
                function.args_unspecified = true;
                (pg_sys::ObjectType::OBJECT_FUNCTION, c"execute".as_ptr(), function.into_pg().cast())
            }
            Kind::View => {
                let relation = pg_sys::makeRangeVar(schema, name, -1);
                (pg_sys::ObjectType::OBJECT_TABLE, c"select".as_ptr(), relation.cast())
            }
            Kind::Type => (pg_sys::ObjectType::OBJECT_TYPE, c"usage".as_ptr(), qualified.cast()),
            Kind::Schema => (pg_sys::ObjectType::OBJECT_SCHEMA, c"usage".as_ptr(), pg_sys::makeString(schema).cast()),
        }
    }
}

/// # Safety
/// `name` is a palloc'd string.
unsafe fn grantee(name: *mut c_char) -> Node {
    // SAFETY: a node in the current memory context.
    unsafe {
        let mut role = PgBox::<pg_sys::RoleSpec>::alloc_node(pg_sys::NodeTag::T_RoleSpec);
        role.roletype = pg_sys::RoleSpecType::ROLESPEC_CSTRING;
        role.rolename = name;
        role.location = -1;
        role.into_pg().cast()
    }
}

/// # Safety
/// `name` is a static string.
unsafe fn privilege_named(name: *const c_char) -> Node {
    // SAFETY: a node in the current memory context.
    unsafe {
        let mut privilege = PgBox::<pg_sys::AccessPriv>::alloc_node(pg_sys::NodeTag::T_AccessPriv);
        privilege.priv_name = name.cast_mut();
        privilege.into_pg().cast()
    }
}

/// # Safety
/// `node` is a node.
unsafe fn list_of(node: Node) -> *mut pg_sys::List {
    // SAFETY: a list in the current memory context.
    unsafe { pg_sys::lappend(std::ptr::null_mut(), node) }
}

fn table() -> pg_sys::Oid {
    // SAFETY: syscache look-ups inside a transaction.
    unsafe { pg_sys::get_relname_relid(c"queue_grant".as_ptr(), pg_sys::get_namespace_oid(c"pgq".as_ptr(), true)) }
}

/// Changes of grants take turns, to the end of the transaction: two that write one ACL would fail with "tuple
/// concurrently updated".
pub fn take_turns() {
    let mode = i32::try_from(pg_sys::ShareRowExclusiveLock).unwrap_or(6);
    // SAFETY: a lock of the ordinary lock manager inside a transaction; waits are interruptible.
    unsafe { pg_sys::LockRelationOid(table(), mode) }
}

/// The grants have changed: every session, this one included, reads them anew.
pub fn changed() {
    // SAFETY: registers a message that goes out at commit; the counter's increment executes it here.
    unsafe {
        pg_sys::CacheInvalidateRelcacheByRelid(table());
        pg_sys::CommandCounterIncrement();
    }
}

/// Equal at two moments: nothing that anybody's rights depend on has changed between them that this session can
/// know of. What somebody committed before this call is known.
pub fn generation() -> (Role, u64) {
    let table = table();
    TABLE.set(table);
    if !REGISTERED.replace(true) {
        register();
    }
    // SAFETY: inside a transaction. A transaction that holds all its locks already gets no messages otherwise.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    (table.to_u32(), GENERATION.get())
}

/// For memberships the same caches as acl.c itself watches (initialize_acl).
fn register() {
    let none = pg_sys::Datum::from(0_usize);
    // SAFETY: once a backend; the callbacks only count.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), none);
        for cache in [
            pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM,
            pg_sys::SysCacheIdentifier::AUTHOID,
            pg_sys::SysCacheIdentifier::DATABASEOID,
        ] {
            let cache = i32::try_from(cache).unwrap_or(0);
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(role_changed), none);
        }
    }
}

fn count() {
    GENERATION.set(GENERATION.get().wrapping_add(1));
}

/// # Safety
/// Called by inval.c; InvalidOid is every relation.
unsafe extern "C-unwind" fn relation_changed(_: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation == TABLE.get() {
        count();
    }
}

/// # Safety
/// Called by inval.c.
unsafe extern "C-unwind" fn role_changed(_: pg_sys::Datum, _: i32, _: u32) {
    count();
}
